"""The engine in thirty lines: a tiny network learns XOR, and the tape is printed.

python examples/backprop.py
"""

import numpy as np

import tinyres as tr


def main() -> None:
    tr.manual_seed(1)
    x = tr.Tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    target = np.array([0, 1, 1, 0])
    net = tr.nn.Sequential(tr.nn.Linear(2, 8), tr.nn.ReLU(), tr.nn.Linear(8, 2))

    for step in range(201):
        loss = tr.ops.cross_entropy(net(x), target)
        if step == 0:  # the nodes that backward() will visit, from the loss to the parameters
            node: tr.tape.Node | tr.tape.Leaf | None = loss._node
            while isinstance(node, tr.tape.Node):
                print(node)
                node = node.parents[0]
            print()
        net.zero_grad()
        loss.backward()
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.5 * parameter.grad
        if step % 50 == 0:
            print(f"step {step:3}: loss {loss.item():.4f}")
    print("predicted:", net(x).data.argmax(1), "wanted:", target)


if __name__ == "__main__":
    main()
