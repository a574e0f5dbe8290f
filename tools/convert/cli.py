"""Command line of the converter."""
from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path

from convert import ConvertError
from convert.adapters import Adapters, check_adapters, read_adapters
from convert.base_model import TOKENIZER_FILES, BaseModel, read_base
from convert.config_json import Defaults, Trained, converted_config, provenance
from convert.dtypes import CONFIG_NAMES
from convert.merge import Source, lora_scale, make_sources
from convert.output import (atomic_directory, check_target, human, make_shards, write_json,
                            write_weights)
from convert.self_check import check_directory
from convert.tensor_files import find_files

DESCRIPTION = """\
Turns a Hugging Face Llama or Mistral directory and LoLCATs adapters into one directory that the
engine serves. LoRA is merged in float32 (W + alpha/r B A, rounded to nearest even); feature maps
and window factors keep the adapters' values. The result is checked against a float64 computation
and appears under its name only when all is well."""

EXAMPLES = """\
examples:
  tools/convert Llama-3.1-8B llama-3.1-8b-lola --distill lolcats-distill/model.pt \\
      --lora lolcats-ft-lora/model.pt
  tools/convert BASE OUT --distill D --dry-run      # say what would be done
  lola-worker --model llama-3.1-8b-lola --dtype bfloat16
Adapters may be torch.save files (read without running them), safetensors files, or directories of
either. Published LoLCATs adapters belong to meta-llama/Llama-3.1-8B, 70B and 405B."""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/convert", description=DESCRIPTION, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("base", type=Path, help="Hugging Face directory of the base model")
    add("out", type=Path, help="new directory to write")
    add("--distill", type=Path, required=True, metavar="PATH",
        help="feature maps and window factors (LoLCATs stage 1)")
    add("--lora", type=Path, action="append", default=[], metavar="PATH",
        help="LoRA matrices (stage 2); may hold newer feature maps too")
    add("--lora-alpha", type=float, metavar="A",
        help="alpha of the LoRA scale alpha/r (default: adapter_config.json, else 16)")
    add("--dtype", choices=["keep", *CONFIG_NAMES], default="keep",
        help="type of the base weights in the output (default: %(default)s)")
    add("--shard-size", type=float, default=5.0, metavar="GIB",
        help="largest weight file (default: %(default)s)")
    add("--dry-run", action="store_true", help="check the inputs, print the plan, write nothing")
    add("--check-rows", type=int, default=16, metavar="N",
        help="rows of each tensor in the self-check (default: %(default)s)")
    add("--quiet", action="store_true", help="no progress")
    group = parser.add_argument_group("defaults of streams (each stream may ask for others)")
    plain = Defaults()
    group.add_argument("--profile", choices=["paper", "lifelong"], default=plain.profile,
                       help="adapters trained with rotary memory need paper (default)")
    group.add_argument("--window", type=int, default=plain.window, help="eta (%(default)s)")
    group.add_argument("--chunk", type=int, help="tokens per update (default: the window)")
    group.add_argument("--cache-pairs", type=int, default=plain.cache_pairs,
                       help="lambda, per layer and query head (%(default)s)")
    group.add_argument("--mixing", choices=["gated_natural", "natural", "lolcats"],
                       default=plain.mixing, help="(%(default)s)")
    group.add_argument("--score-epsilon", type=float, default=plain.score_epsilon,
                       help="(%(default)s)")
    group.add_argument("--cache-dtype", choices=["float32", "bfloat16", "float8"],
                       default=plain.cache_dtype, help="of kept pairs (%(default)s)")
    group = parser.add_argument_group("how the adapters were trained (informative)")
    group.add_argument("--trained-window", type=int, default=Trained().window, metavar="TOKENS",
                       help="window of the attention transfer (%(default)s)")
    group.add_argument("--trained-length", type=int, default=Trained().length, metavar="TOKENS",
                       help="tokens of a training text (%(default)s); `lola eval perplexity` "
                            "measures in multiples of it")
    return parser.parse_args(arguments)


def describe(base: BaseModel, adapters: Adapters, sources: list[Source], feature_dim: int,
             alpha: float, shard_bytes: int, defaults: Defaults, out: Path) -> str:
    shape = base.shape
    shards = make_shards(sources, shard_bytes)
    types = sorted({source.dtype for source in sources})
    merged = sorted({leaf for _, leaf in adapters.lora})
    scales = [lora_scale(r, alpha, adapters.rank_stabilised) for r in adapters.ranks]
    lora = (f"{len(adapters.lora)} matrices ({', '.join(merged)}), rank "
            f"{'/'.join(map(str, adapters.ranks))}, alpha {alpha:g}, scale "
            f"{'/'.join(f'{s:g}' for s in scales)}") if merged else "none"
    lines = {
        "base": f"{base.directory.name}: {shape.layers} layers, hidden {shape.hidden}, "
                f"{shape.heads}/{shape.kv_heads} heads of {shape.head_dim}, vocabulary "
                f"{shape.vocab}, {'tied' if shape.tied else 'untied'}",
        "adapters": ", ".join(path.name for path in adapters.files),
        "feature maps": f"{len(adapters.memory)} tensors, width {feature_dim}, F {2 * feature_dim}"
                        + (f"; {adapters.overridden} replaced by a later file"
                           if adapters.overridden else ""),
        "LoRA": lora,
        "left out": ", ".join(base.left_out[:4]) + (", ..." if base.left_out[4:] else "")
                    or "nothing",
        "streams": f"profile {defaults.profile}, eta {defaults.window}, lambda "
                   f"{defaults.cache_pairs}, mixing {defaults.mixing}, pairs in "
                   f"{defaults.cache_dtype} unless a stream asks for others",
        "output": f"{out}: {len(sources)} tensors, {'/'.join(types)}, "
                  f"{human(sum(s.output().nbytes for s in sources))} in {len(shards)} file(s)",
    }
    return "\n".join(f"{name:13} {text}" for name, text in lines.items())


def convert(args: argparse.Namespace) -> None:
    defaults = Defaults(args.profile, args.window, args.chunk or args.window, args.cache_pairs,
                        args.mixing, args.score_epsilon, args.cache_dtype)
    defaults.check()
    if args.check_rows < 1 or args.shard_size <= 0:
        raise ConvertError("--check-rows and --shard-size must be positive")
    base = read_base(args.base)
    adapters = read_adapters([args.distill, *args.lora])
    if args.lora and not adapters.lora:
        raise ConvertError(f"{args.lora[0]}: holds no LoRA matrices")
    feature_dim = check_adapters(adapters, base.shape, base.shape.projections())
    alpha = adapters.alpha(args.lora_alpha)
    dtype = CONFIG_NAMES.get(args.dtype)
    sources = make_sources(base, adapters, dtype, alpha)
    shard_bytes = int(args.shard_size * (1 << 30))
    total = sum(source.output().nbytes for source in sources)
    check_target(args.out, total)
    print(describe(base, adapters, sources, feature_dim, alpha, shard_bytes, defaults,
                   args.out))
    if args.dry_run:
        print("dry run: nothing was written")
        return
    with atomic_directory(args.out) as part:
        write_weights(part, sources, shard_bytes, args.quiet)
        for name in TOKENIZER_FILES:
            if (base.directory / name).exists():
                shutil.copyfile(base.directory / name, part / name)
        origin = provenance(base, find_files(base.directory), adapters, alpha, hashed=True)
        trained = Trained(args.trained_window, args.trained_length)
        write_json(part / "config.json", converted_config(base, dtype, feature_dim, trained,
                                                          defaults, origin))
        rows = check_directory(part, sources, args.check_rows, seed=1)
        print(f"{'self-check':13} {rows} rows agree with float64")
    print(f"{'written':13} {args.out}")


def _stop(signal_number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal_number)


def main(arguments: list[str] | None = None) -> int:
    args = parse(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        convert(args)
    except ConvertError as error:
        print(f"convert: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"convert: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("convert: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0
