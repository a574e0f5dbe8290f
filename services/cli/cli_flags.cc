// The command line: names, help, examples.
#include "services/cli/cli_flags.h"

namespace lola::cli {
namespace {

using rpc::OptionSet;

constexpr char kRequestIdHelp[] =
    "any name; the command given again with it, after a lost connection, changes nothing more";

void AddStream(OptionSet& set, CliFlags* flags) {
  set.AddPositional("stream", &flags->stream, "stream id: [A-Za-z0-9._:-]{1,128}", true);
}

void AddOpening(OptionSet& set, CliFlags* flags) {
  set.Add("labels", &flags->labels, "key=value labels for a new stream, comma separated");
  set.Add("tenant", &flags->tenant, "tenant of a new stream");
  set.Add("profile", &flags->profile, "memory profile of a new stream: lifelong or paper");
  set.Add("mode", &flags->mode, "memory mode of a new stream: lola or softmax");
  set.Add("cache-pairs", &flags->cache_pairs,
          "sparse cache of a new stream, pairs per layer and head; 0: base model, -1: default");
  set.Add("durability", &flags->durability, "local (synced before tokens leave) or none");
  set.Add("no-create", &flags->no_create, "fail when the stream does not exist");
}

void AddGenerating(OptionSet& set, CliFlags* flags) {
  set.Add("max-tokens", &flags->max_tokens, "tokens generated at most");
  set.Add("stop", &flags->stop, "texts that end the answer, comma separated");
  set.Add("temperature", &flags->temperature, "0: the likeliest token always");
  set.Add("top-p", &flags->top_p, "sample from the smallest set with this probability");
  set.Add("top-k", &flags->top_k, "sample from so many tokens; 0: off");
  set.Add("seed", &flags->seed, "randomness is a function of seed and position");
  set.Add("ignore-eos", &flags->ignore_eos, "go on when the model wants to end");
}

void RegisterTalking(OptionSet& set, CliFlags* flags) {
  OptionSet& chat = set.AddCommand("chat", "talk with a stream, line by line");
  AddStream(chat, flags);
  AddOpening(chat, flags);
  AddGenerating(chat, flags);
  chat.Add("prefix", &flags->prefix, "put before each line");
  chat.Add("suffix", &flags->suffix, "put behind each line");
  chat.Add("template", &flags->template_dir,
           "directory of the served model: turns as its tokenizer_config.json has them");
  chat.Add("system", &flags->system, "system message of a new stream; needs --template");
  chat.SetExamples(
      "Lines go to the stream, its continuation comes back. Ctrl-C ends an answer, Ctrl-D the\n"
      "chat; the stream stays. /where tells position and state, /quit leaves.\n\n"
      "A chat model wants its turns marked: --template names the directory that holds its\n"
      "tokenizer.json and tokenizer_config.json. What you type stays text, whatever it spells.\n\n"
      "  lola chat my-stream\n  lola chat my-stream --max-tokens 64 --temperature 0.8 --seed 7\n"
      "  lola chat my-stream --template models/my-instruct-model --system 'Be brief.'");

  OptionSet& feed = set.AddCommand("feed", "append a text file to a stream");
  AddStream(feed, flags);
  feed.AddPositional("file", &flags->file, "UTF-8 text file; - reads stdin", true);
  AddOpening(feed, flags);
  feed.Add("piece", &flags->piece, "bytes sent at a time");
  feed.SetExamples("  lola feed my-stream book.txt\n  zcat logs.gz | lola feed my-stream -");

  OptionSet& ask = set.AddCommand("ask", "append a text and print the continuation");
  AddStream(ask, flags);
  ask.AddPositional("text", &flags->text, "what to append; - reads stdin", true);
  AddOpening(ask, flags);
  AddGenerating(ask, flags);
  ask.Add("aside", &flags->aside, "ask a fork that is removed afterwards: the stream is unchanged");
  ask.SetExamples(
      "  lola ask my-stream \"The pass key of abc is \" --max-tokens 5\n"
      "  lola ask my-stream \"What was first? \" --aside --stop '. '");
}

void RegisterStreams(OptionSet& set, CliFlags* flags) {
  OptionSet& ls = set.AddCommand("ls", "list streams");
  ls.Add("id-prefix", &flags->id_prefix, "ids that begin so");
  ls.Add("labels", &flags->labels, "only with all these labels: key=value, comma separated");
  ls.Add("limit", &flags->limit, "at most so many; 0: all");
  AddStream(set.AddCommand("describe", "everything recorded about a stream"), flags);

  OptionSet& inspect = set.AddCommand("inspect", "what the sparse cache of a stream holds");
  AddStream(inspect, flags);
  inspect.Add("layer", &flags->layer, "only this layer; -1: all");
  inspect.Add("head", &flags->head, "only this query head; -1: all");
  inspect.Add("top", &flags->top, "pairs shown per head, hardest first; 0: all");
  inspect.SetExamples(
      "  lola inspect my-stream --layer 1 --top 20\n"
      "  lola inspect my-stream --json | jq '.heads[0].pairs'");

  OptionSet& fork = set.AddCommand("fork", "make a new stream that shares the past of another");
  AddStream(fork, flags);
  fork.AddPositional("new", &flags->other, "id of the new stream", true);
  fork.Add("at", &flags->at, "position; -1: the end");
  fork.Add("labels", &flags->labels, "key=value labels of the new stream");
  fork.Add("request-id", &flags->request_id, kRequestIdHelp);

  OptionSet& snapshot = set.AddCommand("snapshot", "keep the present state under a name");
  AddStream(snapshot, flags);
  snapshot.AddPositional("name", &flags->name,
                         "kept until the stream is removed, or rewound to before it", true);

  OptionSet& rewind = set.AddCommand("rewind", "forget everything behind a position");
  AddStream(rewind, flags);
  rewind.Add("at", &flags->at, "position");
  rewind.Add("to", &flags->to, "name of a snapshot");
  rewind.Add("request-id", &flags->request_id, kRequestIdHelp);
  rewind.SetExamples(
      "  lola rewind my-stream --to before-lunch\n  lola rewind my-stream --at 1000");
  AddStream(set.AddCommand("rm", "remove a stream with its log and snapshots"), flags);
}

void RegisterCluster(OptionSet& set, CliFlags* flags) {
  OptionSet& migrate = set.AddCommand("migrate", "move a stream to another worker");
  AddStream(migrate, flags);
  migrate.Add("to", &flags->to, "worker address; empty: any other");
  OptionSet& drain = set.AddCommand("drain", "make a worker give up all its streams");
  drain.AddPositional("worker", &flags->worker, "worker address, see `lola workers`", true);
  drain.Add("deadline", &flags->deadline,
            "snapshots not done by then are skipped; beats a shorter --timeout");
  set.AddCommand("workers", "list workers and how they are");
  set.AddCommand("shards", "list memory shards and their partitions");
  OptionSet& model = set.AddCommand("model", "about the served model");
  OptionSet& info =
      model.AddCommand("info", "fingerprint, geometry, defaults, bytes of one stream's state");
  info.Add("model", &flags->info_model,
           "a folder or random:<geometry>: what it would need, without endpoint and weights");
  info.Add("profile", &flags->profile, "with --model: lifelong or paper; empty: the model's");
  info.Add("mode", &flags->mode, "with --model: lola or softmax");
  info.Add("window", &flags->window, "with --model: window and chunk; 0: the model's");
  info.Add("cache-pairs", &flags->cache_pairs, "with --model: pairs per head; -1: the model's");
  info.SetExamples("  lola model info\n  lola model info --model random:llama-3.1-8b --window 256");
}

void RegisterMeasuring(OptionSet& set, CliFlags* flags) {
  RegisterEval(set, &flags->eval);

  OptionSet& bench = set.AddCommand("bench", "tokens per second and latency of an endpoint");
  bench.Add("streams", &flags->streams, "streams at the same time");
  bench.Add("prompt", &flags->prompt, "characters appended to each");
  bench.Add("tokens", &flags->tokens, "tokens generated by each");
  bench.Add("durability", &flags->durability, "local or none");
  bench.SetExamples(
      "Makes streams bench-..., measures, removes them.\n\n"
      "  lola bench --streams 8 --prompt 4096 --tokens 256");
}

}  // namespace

void RegisterCli(rpc::OptionSet& set, CliFlags* flags) {
  set.Add("endpoint", &flags->endpoint, "gateway or lola-standalone, host:port");
  set.Add("json", &flags->json, "print one JSON document instead of text");
  set.Add("timeout", &flags->timeout, "longest wait for an answer or through a broken connection");
  rpc::RegisterChannelOptions(set, &flags->tls);
  RegisterTalking(set, flags);
  RegisterStreams(set, flags);
  RegisterCluster(set, flags);
  RegisterMeasuring(set, flags);
  set.SetExamples(
      "A stream is an endless text with an id. It is remembered in constant memory, survives the\n"
      "death of any process, moves between machines, and can be forked and rewound.\n\n"
      "  lola chat my-stream                     talk; come back tomorrow, it remembers\n"
      "  lola feed my-stream book.txt            read a long text\n"
      "  lola ask my-stream \"Who did it? \"       ask about it\n"
      "  lola fork my-stream other-ending        two futures of one past\n"
      "  lola inspect my-stream                  what it found hard to remember\n"
      "  lola ls --json | jq .streams[].stream_id\n\n"
      "Exit codes: 0 done, 1 failed, 2 bad usage or value, 3 endpoint or service does not answer,\n"
      "4 not found, 5 refused (exists, owned, other model, limits), 130 interrupted.");
}

}  // namespace lola::cli
