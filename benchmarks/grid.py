"""The full grid: one layer over every size, and a network with each option."""

from .shapes import Shape

BATCHES = (1, 3, 8, 32, 64)
HIDDENS = (64, 128, 256, 512, 1024)
STEPS = (1, 100)

SQUARE = tuple(Shape(T, N, H) for T in STEPS for N in BATCHES for H in HIDDENS)

OPTIONS = (
    Shape(100, 32, 256, D=2),
    Shape(100, 1, 256, D=2),
    Shape(100, 32, 256, L=3),
    Shape(200, 32, 256, packed=True),
    Shape(200, 32, 256, packed=True, D=2),
    Shape(100, 32, 512, dtype="float64"),
    Shape(100, 1, 256, dtype="float64"),
    Shape(100, 32, 256, I=32),
    Shape(100, 32, 256, I=2048),
    Shape(2000, 1, 128),
)
LSTM_ONLY = (Shape(100, 32, 512, P=128), Shape(100, 1, 512, P=128))


def shapes_of(cell: str) -> tuple[Shape, ...]:
    """Everything that is measured of a cell."""
    return SQUARE + OPTIONS + (LSTM_ONLY if cell == "lstm" else ())
