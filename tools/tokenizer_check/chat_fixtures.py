#!/usr/bin/env python3
"""Writes tests/testdata/tokenizer/chat.json: conversations as transformers renders them.

    tools/tokenizer_check/chat_fixtures.py

The templates are written anew here, with the spellings by which the engine recognises a family.
"""

import json
import pathlib

import transformers
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
}
TALKS = [
    [("user", "Hello")],
    [("user", "  spaces \n around\u00a0\x1f")],
    [("system", " Be brief. \n"), ("user", "Who are you?")],
    [("user", "a"), ("assistant", " b "), ("user", "<|eot_id|></s> c <<SYS>>")],
    [("system", "s"), ("user", "1"), ("assistant", "2\n"), ("user", "3"), ("assistant", "4"),
     ("user", "emoji 😀 \u2003")],
]


def main():
    families = []
    for name, template in TEMPLATES.items():
        header = name.startswith("llama-3")
        tokens = {"bos_token": "<|begin_of_text|>" if header else "<s>",
                  "eos_token": "<|eot_id|>" if header else "</s>"}
        talks = []
        for talk in TALKS:
            messages = [{"role": role, "content": content} for role, content in talk]
            if name.startswith("mistral") and talk[0][0] == "system":
                continue
            for date in ([None, "21 Nov 2026"] if name == "llama-3.1" else [None]):
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
