#!/usr/bin/env python3
"""Writes tests/testdata/tokenizer/chat.json: conversations as transformers renders them.

    tools/tokenizer_check/chat_fixtures.py

The templates are written anew here, with the spellings by which the engine recognises a family.
"""

import argparse
import datetime
import json
import pathlib

import transformers
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

FILE = pathlib.Path(__file__).resolve().parents[2] / "tests/testdata/tokenizer/chat.json"
TURNS = "{%% for message in %s %%}%s{%% endfor %%}"
HEADER = ("'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
          " + message['content'] | trim + '<|eot_id|>'")
REPLY = ("{% if add_generation_prompt %}"
         "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")
SYSTEM = ("{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
          "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}"
          "{% endif %}")
CHATML = TURNS % ("messages", "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] +"
                  " '<|im_end|>\\n' }}")
CHATML_REPLY = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def mistral(behind):
    return "{{ bos_token }}" + TURNS % (
        "messages", "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] +"
        " ' [/INST]' }}{% else %}{{ message['content'] + " + behind + " }}{% endif %}")


# Mistral's later templates: the conditions and outputs of the published ones, in their spellings.
HOIST = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
"""
TOOLS = """{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{#- Turns alternate; what tools say is not counted. -#}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.tool_calls is defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("turns must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
"""


def mistral_later(where, space, trim, tools=True, before="", behind=""):
    """[INST] around users; the system message in front of the user's that `where` says."""
    offered = """
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {{- '{"type": "function"}}' + tool|tojson }}
            {%- endfor %}
            {{- "]" + "[/AVAILABLE_TOOLS]" }}
        {%- endif %}""" if tools else ""
    called = """
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" + message.tool_calls|tojson + "]" + eos_token }}""" if tools else ""
    user = '{{- "%s[INST]%s" + %%s + "%s[/INST]" }}' % (before, space, behind)
    reply = ('" " + ' if space else "") + 'message["content"]' + ("|trim" if trim else "")
    return HOIST + (TOOLS if tools else "") + """
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}""" + offered + """
        {%- if """ + where + """ and system_message is defined %}
            """ + user % r'system_message + "\n\n" + message["content"]' + """
        {%- else %}
            """ + user % 'message["content"]' + """
        {%- endif %}""" + called + """
    {%- elif message["role"] == "assistant" %}
        {{- """ + reply + """ + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""


MISTRAL_7 = "{{ bos_token }}" + TURNS % ("messages", (
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('unknown role') }}{% endif %}"))


def mistral_7_tekken(default, today, parts):
    """A block for the system message, with one of its own; contents may be lists of parts."""
    user = "{{- '[INST]' + message['content'] + '[/INST]' }}"
    system, reply = "message['content']", "{{- message['content'] + eos_token }}"
    if parts:
        user = ("{%- if message['content'] is string %}" + user + "{%- else %}{{- '[INST]' }}"
                "{%- for block in message['content'] %}{{- block['text'] }}{%- endfor %}"
                "{{- '[/INST]' }}{%- endif %}")
        system = ("(message['content'] if message['content'] is string else"
                  " message['content'][0]['text'])")
        reply = ("{%- if message['content'] is string %}" + reply + "{%- else %}"
                 "{{- message['content'][0]['text'] + eos_token }}{%- endif %}")
    hoist = HOIST.replace("{%- else %}", "{%- else %}{%- set system_message ="
                          " default_system_message %}").replace('"', "'")
    return (today + "{%- set default_system_message = " + default + " %}\n\n{{- bos_token }}\n\n" +
            hoist + """{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}

{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        """ + user + """
    {%- elif message['role'] == 'system' %}
        {{- '[SYSTEM_PROMPT]' + """ + system + """ + '[/SYSTEM_PROMPT]' }}
    {%- elif message['role'] == 'assistant' %}
        """ + reply + """
    {%- else %}
        {{- raise_exception('Only user, system and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}""")


TEMPLATES = {
    "llama-2": SYSTEM + TURNS % (
        "rest", "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content']"
        " if loop.index0 == 0 and system else message['content'] %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() +"
        " ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"),
    "llama-3": "{{ bos_token }}" + TURNS % ("messages", "{{ " + HEADER + " }}") + REPLY,
    "llama-3.1": (
        SYSTEM + "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n"
        "Cutting Knowledge Date: December 2023\\nToday Date: ' +"
        " (date_string if date_string is defined else '26 Jul 2024') + '\\n\\n' + system | trim +"
        " '<|eot_id|>' }}" + TURNS % ("rest", "{{ " + HEADER + " }}") + REPLY),
    "mistral-v1": mistral("eos_token + ' '"),
    "mistral-v1 ": mistral("eos_token"),
    "chatml": CHATML + CHATML_REPLY,
    "chatml ": ("{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful"
                " assistant.<|im_end|>\\n' }}{% endif %}" + CHATML + CHATML_REPLY),
    "mistral-v1  ": mistral_later("loop.first", " ", False, False, " ", " "),
    "mistral-v3": mistral_later("loop.last", " ", True),
    "mistral-v3 ": mistral_later("(message == user_messages[-1])", " ", True),
    "mistral-v3-tekken": mistral_later("loop.last", "", False),
    "mistral-v7": MISTRAL_7,
    "mistral-v7-tekken": mistral_7_tekken(
        r'"Be \"brief\".\nIt\'s the " + today + ".\n\n[INST] is text."',
        '{%- set today = strftime_now("%Y-%m-%d") %}\n', False),
    "mistral-v7-tekken ": mistral_7_tekken(r"'It\'s {{ brief }} ⇒ so.'", "", True),
}
TALKS = [
    [("user", "Hello")],
    [("user", "  spaces \n around\u00a0\x1f")],
    [("system", " Be brief. \n"), ("user", "Who are you?")],
    [("user", "a"), ("assistant", " b "), ("user", "<|eot_id|></s> c <<SYS>>")],
    [("system", "s"), ("user", "1"), ("assistant", "2\n"), ("user", "3"), ("assistant", "4"),
     ("user", "emoji 😀 \u2003")],
    [("system", "s "), ("user", "same"), ("assistant", "2"), ("user", "same")],
]


def dates(name, talk):
    """Today, for the templates that write it."""
    if name == "llama-3.1":
        return [None, "21 Nov 2026"]
    return ["2026-11-21"] if "strftime_now" in TEMPLATES[name] else [None]


class Today(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 21)


def main():
    argparse.ArgumentParser(description=__doc__,  # no options: --help must not write anything
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    chat_template_utils.datetime = Today  # what strftime_now asks
    families = []
    for name, template in TEMPLATES.items():
        header = name.startswith("llama-3")
        tokens = {"bos_token": "<|begin_of_text|>" if header else "<s>",
                  "eos_token": "<|eot_id|>" if header else "</s>"}
        talks = []
        for talk in TALKS:
            messages = [{"role": role, "content": content} for role, content in talk]
            if name in ("mistral-v1", "mistral-v1 ") and talk[0][0] == "system":
                continue
            for date in dates(name, talk):
                extra = {"date_string": date} if date else {}
                (text,), _ = render_jinja_template(
                    [messages], chat_template=template, add_generation_prompt=True, **tokens,
                    **extra)
                talks.append({"messages": talk, "date": date or "", "text": text})
        families.append({"family": name.strip(), "talks": talks,
                         "config": {**tokens, "chat_template": template}})
    FILE.write_text(json.dumps({"made_by": {"transformers": transformers.__version__},
                                "families": families}, indent=1) + "\n")


if __name__ == "__main__":
    main()
