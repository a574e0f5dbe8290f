#!/usr/bin/python3
"""The quick start behind deploy/quickstart.sh: starts the whole system on loopback and shows it.

Needs the built programs; quickstart.sh builds them first.
"""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "clients" / "python")]

from cluster import Cluster  # noqa: E402
from passkey_text import PasskeyText  # noqa: E402
from screen import Screen, human_seconds  # noqa: E402

DEFAULT_MODEL = ROOT / "models" / "passkey-1m"
TINY_MODEL = ROOT / "tests" / "testdata" / "parity" / "tiny_model"


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="deploy/quickstart.sh", description="Builds the system, starts it on loopback in a "
        "temporary folder, and shows what it does. Everything started is stopped again.")
    parser.add_argument("--tokens", type=int, help="tokens to feed (default 200000)")
    parser.add_argument("--keys", type=int, default=4, help="pass keys planted (default 4)")
    parser.add_argument("--model", type=pathlib.Path, help="model folder (default "
                        f"{DEFAULT_MODEL.relative_to(ROOT)})")
    parser.add_argument("--threads", type=int, help="threads of each worker (default: half of "
                        "the processors)")
    parser.add_argument("--keep", action="store_true", help="leave the system running")
    parser.add_argument("--smoke", action="store_true",
                        help="tiny random model, 5000 tokens, no claims about answers: a test")
    parser.add_argument("--build-dir", type=pathlib.Path, default=ROOT / "build" / "release",
                        help="where the programs are (default build/release)")
    parser.add_argument("--no-build", action="store_true",
                        help="use the programs as they are (and install no packages)")
    options = parser.parse_args(argv)
    options.tokens = options.tokens or (5000 if options.smoke else 200000)
    options.piece = 512 if options.smoke else 4096
    options.generate = 200 if options.smoke else 300
    options.model = (options.model or (TINY_MODEL if options.smoke else DEFAULT_MODEL)).resolve()
    if options.tokens < 1000:
        parser.error(f"--tokens {options.tokens}: at least 1000")
    if not 1 <= options.keys <= 64:
        parser.error(f"--keys {options.keys}: between 1 and 64")
    return options


def threads_per_worker(options):
    return options.threads or max(1, len(os.sched_getaffinity(0)) // 2)


def tell_how_to_go_on(screen, options, cluster, folder, question):
    endpoint = cluster.endpoints[0]
    lola = options.build_dir / "bin" / "lola"
    try:
        lola = lola.relative_to(ROOT)
    except ValueError:
        pass
    screen.line("")
    if not options.keep:
        screen.line("Go on by hand: deploy/quickstart.sh --keep leaves the system running. "
                    "One process instead of five:")
        screen.fact(f"{lola}-standalone --model {options.model} --data my-data &")
        screen.fact(f"{lola} chat my-stream")
        screen.fact(f"{lola} --help")
        return
    pids = " ".join(str(p.pid) for p in reversed(cluster.processes))
    screen.line("The system goes on running. Talk to it:")
    for words in ("ls", "describe story", "inspect story", "chat my-stream",
                  f'ask story "{question}"', "migrate story"):
        screen.fact(f"{lola} --endpoint {endpoint} {words}")
    screen.line(f"Logs and data: {folder}")
    screen.line(f"Stop it: kill {pids}; rm -r {folder}")


def show_all(screen, options, folder):
    """Returns the running cluster and a question to ask it by hand.

    Raises whatever went wrong, after stopping it.
    """
    import lola_client
    from story import Story

    text_file = options.model / "passkey_text.json"
    text = PasskeyText(text_file if text_file.exists() else DEFAULT_MODEL / "passkey_text.json",
                       seed=7)
    cluster = Cluster(options.build_dir / "bin", folder, options.model,
                      threads=threads_per_worker(options))
    client = lola_client.Client(cluster.endpoints)
    story = Story(screen, cluster, client, text, options)
    try:
        for step in (story.start, story.feed, story.kill_worker, story.migrate, story.kill_shard,
                     story.fork, story.ask):
            step()
        screen.step("What was measured")
        screen.table(story.measured)
    except BaseException:
        dead = cluster.dead()
        if dead or isinstance(sys.exc_info()[1], Exception):
            cluster.show_logs(only=dead or None)
        cluster.stop()
        raise
    finally:
        client.close()
    return cluster, text.question(story.keys[0][0])


def main(argv=None):
    options = parse_arguments(argv)
    screen = Screen(steps=8)
    folder = tempfile.mkdtemp(prefix="lola-quickstart-")

    def interrupted(number, unused_frame):
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        cluster, question = show_all(screen, options, folder)
        tell_how_to_go_on(screen, options, cluster, folder, question)
        if not options.keep:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)
        screen.line("")
        screen.line(f"Everything held. {human_seconds(screen.seconds())} in all.", "green")
        return 0
    except KeyboardInterrupt:
        screen.line("\nInterrupted: everything that was started has been stopped.", "yellow")
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    except Exception as error:
        kind = "" if type(error).__name__ in ("CheckFailed", "StartError") else (
            f"{type(error).__name__}: ")
        screen.failed(f"{kind}{error}")
        if any(pathlib.Path(folder).glob("*.log")):
            screen.line("Everything that was started has been stopped. "
                        f"Logs and data: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
