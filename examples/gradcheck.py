"""Which step makes a gradient check accurate? One step for each order of magnitude, in float64 and in float32.

python examples/gradcheck.py
"""

from tinyres.study import gradcheck


def main() -> None:
    found = gradcheck.errors("tanh")
    double, single = (found.curves[dtype].central for dtype in ("float64", "float32"))
    print("step      float64   float32")
    for h, a, b in list(zip(gradcheck.STEPS, double, single, strict=True))[::10]:
        print(f"{h:.0e}   {a:.1e}   {b:.1e}")
    print(*gradcheck.verdict(found), sep="\n")


if __name__ == "__main__":
    main()
