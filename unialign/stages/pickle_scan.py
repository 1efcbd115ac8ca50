"""Scanning a pickle without running it: the names in it, and the cost of loading it.

A value that a pickle refers to many times takes no memory, but each use of it can take time: a tuple that contains the
same tuple twice, nested thirty levels deep, takes 2^30 steps to hash when it becomes a dict key. So the number of
hashed values is counted beforehand, with shared values expanded.
"""

import pickletools
from collections.abc import Container
from typing import BinaryIO

_FORBIDDEN_OPCODES = frozenset(
    {
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "EXT1",
        "EXT2",
        "EXT4",
        "PERSID",
        "BINPERSID",
        "NEXT_BUFFER",
        "READONLY_BUFFER",
    }
)
_PUT, _GET = frozenset({"PUT", "BINPUT", "LONG_BINPUT"}), frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# The cost of hashing a value: the number of values, and their depth. Everything except tuples and lists counts as one.
_Cost = list[int]
_ONE: _Cost = [1, 0]
_MARK: _Cost = [0, 0]
_DEEPEST = 100
# Hashed values per step of the pickle. A genuine one hashes less than one: names of fields and ids.
_HASHED, _HASHED_AT_LEAST = 10, 10_000
# Opcodes that push one value of their own, and those that push one for two that they pop.
_PLAIN = frozenset(
    opcode.name for opcode in pickletools.opcodes if not opcode.stack_before and len(opcode.stack_after) == 1
) - {"MARK", "EMPTY_LIST", "EMPTY_TUPLE", *_GET}
_PAIRS = frozenset({"BUILD", "STACK_GLOBAL", "NEWOBJ"})


class Refused(ValueError):
    """The pickle names something that is not on the list."""


def check_costs(file: BinaryIO) -> None:
    """Scan the next pickle of a file to check what it costs, whatever it names.

    Raises `ValueError` for something else or a pickle whose loading would take far more steps than it has.
    """
    costs = _Costs()
    for count, (opcode, argument, _position) in enumerate(pickletools.genops(file)):
        _count(costs, opcode.name, argument, count)


def check_opcodes(file: BinaryIO, allowed: Container[str]) -> None:
    """Scan a pickle, from the current position of the file to its end.

    Raises `Refused` for a name that is not allowed and for opcodes that create objects; `ValueError` for memo numbers
    that would make the unpickler allocate a table far larger than the pickle, and for values whose hashing would take
    far more steps than the pickle has; whatever `pickletools` raises for something else.
    """
    costs = _Costs()
    for count, (opcode, argument, _position) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name in _FORBIDDEN_OPCODES:
            raise Refused(f"opcode {name}" + (f" {argument}" if isinstance(argument, str) else ""))
        if name == "GLOBAL" and str(argument).replace(" ", ".", 1) not in allowed:
            raise Refused(str(argument).replace(" ", ".", 1))
        _count(costs, name, argument, count)


def _count(costs: "_Costs", name: str, argument: object, count: int) -> None:
    # A writer numbers what it has written from 0 (old ones from 1).
    if name in _PUT and isinstance(argument, int) and argument > count:
        raise ValueError(f"memo entry {argument} after {count} steps")
    costs.step(name, argument if isinstance(argument, int) else 0)
    if costs.hashed > _HASHED * count + _HASHED_AT_LEAST:
        raise ValueError(f"{costs.hashed} values to hash after {count} steps")


def _cost(parts: list[_Cost]) -> _Cost:
    """Of a container: its own cost (first) and the costs of what is added to it."""
    weight = sum(weight for weight, _ in parts)
    depth = max(parts[0][1], 1, *(1 + depth for _, depth in parts[1:]))
    if depth > _DEEPEST:
        raise ValueError(f"nested more than {_DEEPEST} levels deep")
    # Cap: anything larger is rejected as soon as it is hashed.
    return [min(weight, 2**62), depth]


class _Costs:
    """The stack of an unpickler, with the cost of each value on it. hashed: values hashed so far."""

    def __init__(self) -> None:
        self.hashed = 0
        self._stack: list[_Cost] = []
        # Only what is not one value. `_memoized` numbers the others too.
        self._memo: dict[int, _Cost] = {}
        self._memoized = 0

    def step(self, name: str, argument: int) -> None:
        """The effect of an opcode. A stack that is too short is left for the unpickler to report."""
        stack = self._stack
        # Most steps are of these kinds.
        if name in _PLAIN:
            stack.append(_ONE)
        elif name in _PUT or name == "MEMOIZE":
            self._note(self._memoized if name == "MEMOIZE" else argument)
        elif name in _GET:
            stack.append(self._memo.get(argument, _ONE))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            self._push(self._taken(_TUPLES[name]))
        elif name in ("TUPLE", "LIST", "EMPTY_LIST"):
            self._push([] if name == "EMPTY_LIST" else self._above_mark())
        elif name in ("POP", "DUP"):
            taken = self._taken(1)
            stack.extend(taken * 2 if name == "DUP" else [])
        elif name == "POP_MARK":
            self._above_mark()
        elif name == "REDUCE":
            # The items of a set.
            self.hashed += self._taken(2)[1][0]
            stack.append(_ONE)
        elif name in _PAIRS:
            self._taken(2)
            stack.append(_ONE)
        else:
            self._contain(name)

    def _contain(self, name: str) -> None:
        """Opcodes that put values into a container; all others (PROTO, FRAME, STOP) change nothing."""
        if name in ("APPEND", "APPENDS"):
            items = self._taken(1) if name == "APPEND" else self._above_mark()
            (target,) = self._taken(1)
            self._stack.append(target)
            if target is not _ONE:
                target[:] = _cost([target, *items])
        elif name in ("SETITEM", "SETITEMS", "DICT"):
            items = self._taken(2) if name == "SETITEM" else self._above_mark()
            self.hashed += sum(weight for weight, _ in items[::2])
            if name == "DICT":
                self._stack.append(_ONE)
        elif name in ("ADDITEMS", "FROZENSET"):
            self.hashed += sum(weight for weight, _ in self._above_mark())
            if name == "FROZENSET":
                self._stack.append(_ONE)

    def _taken(self, count: int) -> list[_Cost]:
        stack = self._stack
        missing = max(count - len(stack), 0)
        taken = stack[len(stack) - count + missing :] if count else []
        del stack[len(stack) - len(taken) :]
        return [_ONE] * missing + taken

    def _above_mark(self) -> list[_Cost]:
        stack, items = self._stack, []
        while stack and (top := stack.pop()) is not _MARK:
            items.append(top)
        return items[::-1]

    def _push(self, items: list[_Cost]) -> None:
        self._stack.append(_cost([[1, -1], *items]))

    def _note(self, number: int) -> None:
        self._memoized += 1
        if self._stack and self._stack[-1] is not _ONE:
            self._memo[number] = self._stack[-1]
        else:
            self._memo.pop(number, None)
