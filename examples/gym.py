"""Level 1 of the gym, solved by a program: start, check, repair, check again.

    python examples/gym.py

By hand it is `tinyres study gym start`, an editor, and `tinyres study gym check`.
"""

import tempfile

from tinyres.study import gym


def main() -> None:
    level = gym.LEVELS[0]
    with tempfile.TemporaryDirectory() as folder:
        path, _ = gym.start(folder, level)
        report = gym.check(folder, level)
        print(report.verdict, report.case, report.message, sep="\n")

        print(f"\nHint: {level.hint}\n")
        source = path.read_text()
        path.write_text(source.replace("(dy / y,)", "(dy / (y + y),)"))  # y^2 = x, so 2 y dy/dx = 1
        print(gym.check(folder, level).verdict)


if __name__ == "__main__":
    main()
