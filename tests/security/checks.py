"""Checks and what they find, and programs that abuse the way between the two."""

from rlbench.types import Status

# Source of a program, of its check, and the verdict.
CHECKS = {
    "named arguments": ("def f(a, b=1): return a - b", "def check(f): assert f(b=2, a=5) == 3", Status.PASSED),
    "other answers lead to other questions": ("def f(n): return n // 2 if n % 2 == 0 else 3 * n + 1", "def check(f):\n    n, steps = 27, 0\n    while n != 1: n, steps = f(n), steps + 1\n    assert steps == 111", Status.PASSED),
    "a state": ("n = 0\ndef f():\n    global n\n    n += 1\n    return n", "def check(f): f(); assert f() == 2", Status.PASSED),
    "no question": ("def f(): return 1", "def check(f): pass", Status.PASSED),
    "no question, and no program": ("def f(:", "def check(f): pass", Status.ERROR),
    "chance": ("def f(xs): return sorted(xs)", "import random\ndef check(f):\n    xs = random.sample(range(99), 9)\n    assert f(xs[:]) == sorted(xs)", Status.PASSED),
    "a wrong answer": ("def f(a): return a", "def check(f): assert f(1) == 2, 'oh \\ud800'", Status.WRONG),
    "an answer of no use": ("def f(a): return None", "def check(f): assert f(1) < 2", Status.WRONG),
    "a check that exits": ("def f(a): return 1", "def check(f): f(1); raise SystemExit(0)", Status.WRONG),
    "a check that leaves": ("def f(a): return 1", "import os\ndef check(f): f(1); os._exit(0)", Status.WRONG),
    "a check that dies": ("def f(a): return 1", "import os\ndef check(f): f(1); os.kill(os.getpid(), 9)", Status.WRONG),
    "raises": ("def f(a): return 1 / 0", "def check(f): assert f(1) == 2", Status.ERROR),
    "raises, and the check has no scruples": ("def f(a): return 1 / 0", "def check(f):\n    try: f(1)\n    except BaseException: pass", Status.ERROR),
    "has another name": ("g = 1", "def check(f): assert f(1) == 2", Status.ERROR),
    "exits": ("import os\ndef f(a): os._exit(0)", "def check(f): assert f(1) == 2", Status.ERROR),
    "is gone while the check thinks": ("import os\ndef f(a):\n    os.write(3, b'{\"test\": 0, \"value\": [\"int\", \"1\"]}\\n')\n    os._exit(0)", "import time\ndef check(f): f(1); time.sleep(0.2)", Status.ERROR),
    "crashes": ("import os\ndef f(a): os.kill(os.getpid(), 11)", "def check(f): assert f(1) == 2", Status.ERROR),
    "never ends": ("def f(a):\n    while True: pass", "def check(f): assert f(1) == 2", Status.TIMEOUT),
    "never ends, and was not asked": ("while True: pass", "def check(f): pass", Status.TIMEOUT),
    "sleeps": ("import time\ndef f(a): time.sleep(30)", "def check(f): assert f(1) == 2", Status.TIMEOUT),
    "a little each time": ("def f(a):\n    for _ in range(1000000): pass", "def check(f):\n    for i in range(1000): f(i)", Status.TIMEOUT),
    "memory": ("def f(a): return bytearray(1 << 30)", "def check(f): assert f(1) == 2", Status.MEMORY),
    "memory, before it is asked": ("x = bytearray(1 << 30)\ndef f(a): return 2", "def check(f): assert f(1) == 2", Status.MEMORY),
    "a check that does not parse": ("def f(a): return 1", "def check(f:", Status.INFRASTRUCTURE),
    "a check that needs what is not there": ("def f(a): return 1", "import numpy\ndef check(f): pass", Status.INFRASTRUCTURE),
    "no check": ("def f(a): return 1", "def test(f): pass", Status.INFRASTRUCTURE),
    "a check that leaves too early": ("def f(a): return 1", "import os\nos._exit(0)", Status.INFRASTRUCTURE),
    "a check that never begins": ("def f(a): return 1", "while True: pass", Status.INFRASTRUCTURE),
    "a check that needs too much": ("def f(a): return 1", "x = bytearray(1 << 30)\ndef check(f): pass", Status.INFRASTRUCTURE),
    "a question of no plain kind": ("def f(a): return 1", "def check(f): f(object())", Status.INFRASTRUCTURE),
    "a question of no plain kind, later": ("def f(a): return 1", "def check(f): f(1); f(object())", Status.WRONG),
    "an answer of no plain kind, asked back": ("def f(a): return f", "def check(f): f(f(1))", Status.WRONG),
}  # fmt: skip

# Against a check that 2 and 3 are 5, and 10 and twice 10 are 30.


def speaks(text: str, then: str = "return a + b") -> str:
    """A program that writes to the one that checks it, when it is asked."""
    return f"import os, time\ndef f(a, b):\n    os.write(3, {text})\n    {then}\n"


LINE = 'b\'{"test": %d, "value": ["int", "%x"]}\\n\''

CHANNEL = {
    "answers twice": speaks(LINE % (0, 5)),
    "answers the next, too": speaks(f"{LINE % (0, 5)} + {LINE % (1, 20)}"),
    "answers the last twice": speaks(f"{LINE % (2, 30)} if b == 20 else b''"),
    "an answer before it is asked": f"import os\nos.write(3, {LINE % (0, 4)})\ndef f(a, b): return a + b",
    "says that it passed": speaks('b\'{"status": "passed", "detail": ""}\\n\''),
    "says that the check has to be blamed": speaks('b\'{"status": "infrastructure", "detail": ""}\\n\''),
    "says that its restrictions broke": speaks('b\'{"broken": "no"}\\n\''),
    "says that it is ready": speaks('b\'{"ready": true}\\n\''),
    "says that the check has begun": speaks('b\'{"begun": true}\\n\''),
    "says that it is at its end": speaks("b'{\"end\": 2}\\n'", "os._exit(0)"),
    "nothing but a line": speaks(r"b'\n'"),
    "garbage": speaks(r"bytes(range(256)) * 9 + b'\n'"),
    "half a line": speaks("b'{\"test\": 0'", "os._exit(0)"),
    "half a line, and no more": speaks("b'{\"test\": 0'", "time.sleep(9)"),
    "no number": speaks("b'{\"value\": [\"int\", \"5\"]}\\n'"),
    "no value": speaks("b'{\"test\": 0}\\n'"),
    "a deep line": speaks(r"b'{\"test\": 0, \"value\": ' + b'[' * 900000 + b'\n'"),
    "a deep value": speaks('b\'{"test": 0, "value": \' + b\'["list", [\' * 200 + b"]]" * 200 + b"}\\n"'),
    "a long integer": speaks('b\'{"test": 0, "value": ["int", "\' + b"f" * 900000 + b\'"]}\\n\''),
    "a number too large": speaks("b'{\"test\": 0, \"value\": [\"float\", \"0x1p+999999\"]}\\n'"),
    "many small values": speaks('b\'{"test": 0, "value": ["list", [\' + b\'["list", []],\' * 70000 + b\'["none", null]]]}\\n\''),
    "a dict of lists": speaks("b'{\"test\": 0, \"value\": [\"dict\", [[[\"list\", []], [\"none\", null]]]]}\\n'"),
    "an error that is none": speaks("b'{\"error\": [[], {}, 1e999]}\\n'"),
    "a flood of lines": speaks(r"b'{}\n'", "while True: os.write(3, b'{}\\n' * 9999)"),
    "a flood without lines": speaks(r"b'{}\n'[:1]", "while True: os.write(3, b'x' * 9999)"),
    "always equal": "class E:\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\ndef f(a, b): return E()",
    "always equal, within": "class E(int):\n    __eq__ = lambda s, o: True\ndef f(a, b): return [E(5)]",
    "a class that is equal": "class M(type):\n    __eq__ = lambda s, o: True\nclass E(metaclass=M): pass\ndef f(a, b): return E",
    "stops answering": "import time\ndef f(a, b):\n    if a > 2: time.sleep(9)\n    return a + b",
    "exits between calls": "import os\ndef f(a, b):\n    os.write(3, %s)\n    os._exit(0)" % (LINE % (0, 5)),
    "is killed between calls": "import os\ndef f(a, b):\n    os.write(3, %s)\n    os.kill(os.getpid(), 9)" % (LINE % (0, 5)),
    "reads ahead": "import os\ndef f(a, b):\n    os.read(4, 99)\n    return a + b",
    "reads what is meant for its caller": "import os\nos.read(4, 12)\ndef f(a, b): return a + b",
    "leaves something for the next": "import os\ndef f(a, b):\n    os.write(4, bytes(99))\n    return a + b",
    "other descriptors": "import os\ndef f(a, b):\n    for n in range(5, 256):\n        try: os.fstat(n)\n        except OSError: continue\n        return a + b",
    "kills the one that checks it": "import os\ndef f(a, b): os.kill(os.getpid() + 1, 9)",
    "kills itself": "import os\ndef f(a, b): os.kill(os.getpid(), 9)",
    "naps": "import time\ndef f(a, b):\n    while True: time.sleep(1e-6)",
    "closes its mouth": "import os\nos.close(3)\ndef f(a, b): return a + b",
    "closes its mouth, and stays": "import os, time\nos.close(3)\ntime.sleep(9)",
    "closes its ears": "import os\nos.close(4)\ndef f(a, b): return a + b",
    "closes its ears, and stays": "import os, time\nos.close(4)\ntime.sleep(9)",
    "closes everything": "import os\nos.closerange(0, 9)\ndef f(a, b): return a + b",
    "looks for what is expected": "import gc\ndef f(a, b):\n    if any('check' in o for o in gc.get_objects() if type(o) is dict): return a + b",
    "looks for it in the caller": "import sys\ndef f(a, b):\n    frame = sys._getframe()\n    while frame := frame.f_back:\n        if 'ass' + 'ert' in repr(frame.f_locals): return a + b",
}  # fmt: skip

# What a program returns, what its check does with it, and the verdict.
ANSWERS = [
    ("10 ** 12", "assert 'x' * f() == 'x'", Status.WRONG),
    ("10 ** 12", "for _ in range(f()): pass", Status.TIMEOUT),
    ("10 ** 9", "10 ** f()", Status.TIMEOUT),
    (
        "10 ** 9",
        "import sys; sys.setrecursionlimit(10**9); g = lambda n: n and max([n - 1], key=g); g(f())",
        Status.WRONG,
    ),
    ("[k * (2**61 - 1) for k in range(20000)]", "assert len(set(f())) == 0", Status.TIMEOUT),
    ("1 << 60000", "assert str(f()) == '0'", Status.WRONG),
    ("9", "import time; time.sleep(f())", Status.TIMEOUT),
    ("object()", "assert f() == f()", Status.WRONG),
    ("object()", "assert f()", Status.WRONG),
    ("[object()]", "assert f()[0] > 0", Status.WRONG),
    ("float('nan')", "assert abs(f() - 1) < 1e-6", Status.WRONG),
]
