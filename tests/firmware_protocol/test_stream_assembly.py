"""Frames out of bytes that were cut, joined, damaged, lost or repeated."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_protocol.frame_assembly import Defect, Frame, FrameAssembler
from firmware_protocol.stream import LEADER_SIZE, TRAILER_SIZE, Leader, PixelFormat, encode_frame

WIDTH, HEIGHT = 6, 5
SIZE = LEADER_SIZE + WIDTH * HEIGHT + TRAILER_SIZE


def transfers(frame_id: int, width: int = WIDTH, height: int = HEIGHT) -> tuple[bytes, bytes, bytes]:
    pixels = random.Random(frame_id).randbytes(width * height)
    leader = Leader(frame_id, frame_id / 10, width, height, PixelFormat.MONO8, 8, 12.0, 5000.0, 80.0)
    return encode_frame(leader, pixels, frame_id / 10 + 0.1)


def stream(*frame_ids: int) -> bytes:
    return b"".join(b"".join(transfers(frame_id)) for frame_id in frame_ids)


def split(found: list[Frame | Defect]) -> tuple[list[Frame], list[Defect]]:
    return [f for f in found if isinstance(f, Frame)], [d for d in found if isinstance(d, Defect)]


def ids(found: list[Frame | Defect]) -> list[int]:
    return [frame.leader.frame_id for frame in split(found)[0]]


@given(st.lists(st.integers(1, SIZE), max_size=40))
def test_the_cuts_do_not_matter(lengths):
    data = stream(1, 2, 3)
    assembler, found = FrameAssembler(), []
    for length in lengths:
        found += assembler.feed(data[:length])
        data = data[length:]
    found += assembler.feed(data)
    assert ids(found) == [1, 2, 3]
    assert split(found)[1] == []
    assert [bytes(frame.payload) for frame in split(found)[0]] == [transfers(i)[1] for i in (1, 2, 3)]


def test_every_single_cut():
    data = stream(1, 2)
    for cut in range(len(data) + 1):
        assembler = FrameAssembler()
        assert ids(assembler.feed(data[:cut]) + assembler.feed(data[cut:])) == [1, 2]


def test_joining_in_the_middle_costs_the_frame_under_way_alone():
    data = stream(1, 2, 3)
    for start in range(1, SIZE):
        frames, defects = split(FrameAssembler().feed(data[start:]))
        assert [frame.leader.frame_id for frame in frames] == [2, 3]
        assert [defect.lost for defect in defects] == [0]


def test_every_truncation_costs_one_frame():
    for kept in range(1, SIZE):
        data = stream(1) + stream(2)[:kept] + stream(3, 4)
        frames, defects = split(FrameAssembler().feed(data))
        assert [frame.leader.frame_id for frame in frames] == [1, 3, 4]
        assert sum(defect.lost for defect in defects) == 1


@settings(max_examples=300)
@given(st.integers(0, SIZE * 8 - 1))
def test_every_flipped_bit_costs_one_frame(bit):
    data = bytearray(stream(1, 2, 3))
    data[SIZE + bit // 8] ^= 1 << bit % 8
    frames, defects = split(FrameAssembler().feed(bytes(data)))
    assert [frame.leader.frame_id for frame in frames] == [1, 3]
    assert sum(defect.lost for defect in defects) == 1


@given(st.lists(st.one_of(st.integers(1, 50), st.binary(max_size=150)), max_size=12), st.integers(1, 97))
def test_noise_between_frames_costs_none(parts, piece):
    data = b"".join(stream(part) if isinstance(part, int) else part for part in parts)
    assembler, found = FrameAssembler(), []
    for start in range(0, len(data), piece):
        found += assembler.feed(data[start : start + piece])
    assert ids(found) == [part for part in parts if isinstance(part, int)]


@given(st.binary(max_size=2000))
def test_noise_alone_gives_no_frame(data):
    assembler = FrameAssembler()
    assert ids(assembler.feed(data)) == []
    assert ids(assembler.feed(bytes(200) + stream(7))) == [7]


@given(st.data())
def test_a_frame_is_whole_or_absent(data):
    """Whatever is done to the bytes, the pixels of a frame that comes out are those that were sent."""
    raw = bytearray(stream(1, 2, 3, 4))
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "delete", "insert", "zero", "repeat"])):
            case "flip":
                raw[at] ^= data.draw(st.integers(1, 255))
            case "delete":
                del raw[at : at + data.draw(st.integers(1, 64))]
                raw.extend(bytes(64))
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=64))
            case "zero":
                raw[at : at + 40] = bytes(len(raw[at : at + 40]))
            case "repeat":
                raw[at:at] = raw[at : at + SIZE]
    for frame in split(FrameAssembler().feed(bytes(raw)))[0]:
        assert bytes(frame.payload) == transfers(frame.leader.frame_id)[1]


def test_a_gap_is_told():
    frames, defects = split(FrameAssembler().feed(stream(5, 9)))
    assert [frame.leader.frame_id for frame in frames] == [5, 9]
    assert [(defect.lost, defect.frame_id) for defect in defects] == [(3, None)]
    assert "3 frames lost before frame 9" in defects[0].reason


@pytest.mark.parametrize("order", [(5, 5), (5, 4)])
def test_frames_repeated_or_out_of_order_are_told(order):
    frames, defects = split(FrameAssembler().feed(stream(*order)))
    assert [frame.leader.frame_id for frame in frames] == list(order)
    assert [defect.lost for defect in defects] == [0]


def test_after_clear_everything_is_new():
    assembler = FrameAssembler()
    assembler.feed(stream(5) + stream(6)[:90])
    assembler.clear()
    assert assembler.due == LEADER_SIZE
    frames, defects = split(assembler.feed(stream(1)))
    assert [frame.leader.frame_id for frame in frames] == [1]
    assert defects == []


def test_a_payload_fed_in_one_piece_is_not_copied():
    leader, payload, trailer = transfers(1)
    buffer = array("B", payload)
    view = memoryview(buffer)
    assembler = FrameAssembler()
    due = [assembler.due]
    assembler.feed(leader)
    due.append(assembler.due)
    assert assembler.feed(view) == []
    due.append(assembler.due)
    (frame,) = assembler.feed(trailer)
    assert due == [LEADER_SIZE, WIDTH * HEIGHT, TRAILER_SIZE]
    assert frame.payload is view


@given(st.lists(st.integers(1, 40), min_size=1))
def test_what_is_due_never_passes_the_end_of_a_part(lengths):
    data = stream(1, 2)
    assembler, at = FrameAssembler(), 0
    ends = sorted({base + end for base in (0, SIZE) for end in (LEADER_SIZE, SIZE - TRAILER_SIZE, SIZE)})
    for length in lengths:
        if at == len(data):
            break
        assert at + assembler.due == next(end for end in ends if end > at)
        step = min(length, assembler.due)
        assembler.feed(data[at : at + step])
        at += step
