"""The logs of a run: a row per step, each once, whoever was killed; sent to a store without being waited for."""

import errno
import itertools
import os
import signal
import struct
import sys
import threading
import time
import uuid
from types import SimpleNamespace

import psutil
import pytest
from forks import FORKS
from trainings import prepare, train_here, write_speech

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.training.logs import RunLogger
from sdhubert_ray.training.metrics import COLUMNS, METRICS_FILE, TENSORBOARD_FOLDER, read_metrics


@pytest.fixture
def memory():
    """A place in a store that is this process's memory."""
    return f"memory://{uuid.uuid4().hex}/run"


@pytest.fixture
def sent(monkeypatch):
    """Count what a store is sent of metrics.csv, and hold it up until `sent.gate` is set."""

    held = SimpleNamespace(gate=threading.Event(), threads=[])

    def upload(path, uri, real=storage.upload):
        if uri.endswith(METRICS_FILE):
            held.threads.append(threading.current_thread().name)
            assert held.gate.wait(120)
        real(path, uri)

    monkeypatch.setattr(storage, "upload", upload)
    yield held
    held.gate.set()


def log_steps(logger, first, last):
    for step in range(first, last + 1):
        logger.log_metrics({"loss": step / 8, "epoch": 0}, step - 1)


def column(output, name):
    return [(int(row["step"]), row[name]) for row in read_metrics(output)]


def steps_of(output):
    return [step for step, _ in column(output, "step")]


def wait_until(is_so, seconds=120):
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


# --- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "remote"])
def test_logs_go_on_after_the_step_that_is_resumed_from(tmp_path, memory, where):
    output = str(tmp_path / "run") if where == "local" else memory
    first = RunLogger(output, 0, tmp_path / "first")
    for step in range(6):
        first.log_metrics({"loss": step / 8, "epoch": 0}, step)
    first.log_metrics({"val_score": 0.5}, 3)
    first.finalize("success")
    second = RunLogger(output, 4, tmp_path / "second")
    second.log_metrics({"loss": 9.0}, 4)
    second.finalize("success")
    rows = read_metrics(output)
    assert [(row["step"], row["loss"]) for row in rows] == [
        ("1", "0.0"), ("2", "0.125"), ("3", "0.25"), ("4", "0.375"), ("5", "9.0"),
    ]  # fmt: skip
    assert [row["val_score"] for row in rows] == ["", "", "", "0.5", ""]
    assert "epoch" not in rows[0]


def test_a_step_that_is_logged_by_several_calls_has_one_row(tmp_path, monkeypatch):
    monkeypatch.setattr("sdhubert_ray.training.logs._LIVE_SECONDS", 0.0)
    output = str(tmp_path / "run")
    logger = RunLogger(output, 0, tmp_path)
    log_steps(logger, 1, 3)
    logger.save()
    assert steps_of(output) == [1, 2]  # step 3 may get more
    logger.log_metrics({"val_score": 0.5, "val_loss": 2.0}, 2)
    logger.flush()
    assert column(output, "val_score") == [(1, ""), (2, ""), (3, "0.5")]
    log_steps(logger, 4, 5)
    logger.flush()
    logger.log_metrics({"val_score": 0.75}, 4)  # of a row that is written
    logger.save()
    log_steps(logger, 6, 6)
    logger.save()
    assert column(output, "val_score") == [(1, ""), (2, ""), (3, "0.5"), (4, ""), (5, "0.75")]
    logger.log_metrics({"val_score": 1.0}, 5)
    logger.finalize("success")
    logger.finalize("success")  # as Lightning may
    assert column(output, "loss") == [(step, str(step / 8)) for step in range(1, 7)]
    assert column(output, "val_score")[4:] == [(5, "0.75"), (6, "1.0")]


def test_what_is_not_due_is_written_by_flush(tmp_path):
    output = str(tmp_path / "run")
    logger = RunLogger(output, 0, tmp_path)
    log_steps(logger, 1, 5)
    logger.save()
    assert steps_of(output) == []
    logger.flush()
    assert steps_of(output) == [1, 2, 3, 4, 5]
    logger.finalize("success")


@pytest.mark.parametrize("torn", ["6,0.7", "6", "6,0.75" + "," * (len(COLUMNS) - 2), "6,0.7" + "7,0.75,,,\n"])
def test_a_torn_line_is_left_out(tmp_path, torn):
    """The last one has been gone on from, as where the disk was full for a moment."""
    output = str(tmp_path / "run")
    first = RunLogger(output, 0, tmp_path)
    log_steps(first, 1, 5)
    first.finalize("failed")
    with (tmp_path / "run" / METRICS_FILE).open("a") as file:
        file.write(torn)
    assert steps_of(output) == [1, 2, 3, 4, 5]
    second = RunLogger(output, 5, tmp_path)
    log_steps(second, 6, 7)
    second.finalize("success")
    assert column(output, "loss") == [(step, str(step / 8)) for step in range(1, 8)]


def test_a_torn_header_has_no_rows(tmp_path):
    (tmp_path / METRICS_FILE).write_text("step,lo")
    assert read_metrics(str(tmp_path)) == []
    (tmp_path / METRICS_FILE).write_text("")
    assert read_metrics(str(tmp_path)) == []


def test_a_new_metric_gets_a_column_and_nothing_is_lost(tmp_path):
    output = str(tmp_path / "run")
    first = RunLogger(output, 0, tmp_path)
    log_steps(first, 1, 3)
    first.flush()
    first.log_metrics({"loss": 0.5, "weather": 20.0}, 3)
    log_steps(first, 5, 5)
    first.finalize("success")
    assert list(read_metrics(output)[0]) == [*COLUMNS, "weather"]
    assert column(output, "weather") == [(1, ""), (2, ""), (3, ""), (4, "20.0"), (5, "")]
    second = RunLogger(output, 5, tmp_path)
    log_steps(second, 6, 6)
    second.finalize("success")
    assert column(output, "loss") == [(step, str(step / 8)) for step in range(1, 7)]
    assert column(output, "weather")[3:] == [(4, "20.0"), (5, ""), (6, "")]


def test_files_of_before_are_gone_on_with(tmp_path):
    """Columns as they were logged, and the line ends that the csv module prefers."""
    (tmp_path / METRICS_FILE).write_bytes(b"step,grad_norm,loss,old\r\n1,3.0,0.125,7\r\n2,2.5,0.25,\r\n")
    logger = RunLogger(str(tmp_path), 2, tmp_path)
    log_steps(logger, 3, 3)
    logger.finalize("success")
    rows = read_metrics(str(tmp_path))
    assert list(rows[0]) == [*COLUMNS, "old"]
    assert [(row["grad_norm"], row["loss"], row["old"]) for row in rows] == [
        ("3.0", "0.125", "7"), ("2.5", "0.25", ""), ("", "0.375", ""),
    ]  # fmt: skip


def test_appending_does_not_grow_with_the_run(tmp_path):
    """Bytes that this process reads and writes for fifty rows, of a short file and of one twenty times as long."""
    path, process = tmp_path / "run" / METRICS_FILE, psutil.Process()
    logger = RunLogger(str(tmp_path / "run"), 1000, tmp_path)
    inode, costs, sizes = path.stat().st_ino, [], []
    for first in range(1001, 2051, 50):
        size, before = path.stat().st_size, process.io_counters()
        log_steps(logger, first, first + 49)
        logger.flush()
        after = process.io_counters()
        costs.append(after.read_chars + after.write_chars - before.read_chars - before.write_chars)
        sizes.append(path.stat().st_size - size)
    logger.finalize("success")
    assert path.stat().st_ino == inode  # it was never replaced
    assert max(sizes) < 1.2 * min(sizes)
    # Other threads of this process read and write when they like: the least of several is what it takes.
    assert min(costs[-5:]) < 1.5 * max(costs[:5])


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*:UserWarning")
def test_the_columns_are_what_training_logs(tmp_path):
    (tmp_path / "speech").mkdir()
    settings = ("max_steps=2", "data.batch_size=4", "val_check_interval=2", "log_every_n_steps=1")
    run = prepare(tmp_path / "run", write_speech(tmp_path / "speech"), *settings)
    train_here(run, tmp_path)
    rows = read_metrics(run.output)
    assert tuple(rows[0]) == COLUMNS
    assert all(rows[1].values())


# --- processes that are killed -------------------------------------------------------------------------------------


def log_until_killed(output, folder, live, environment):
    """Log the steps after 5 and kill this process; what is known to be written by then is steps 1 to 5."""
    from sdhubert_ray.training import logs

    os.environ.update(environment)
    logs._LIVE_SECONDS = live
    logger = RunLogger(output, 0, folder)
    for step in range(1, 9):
        logger.log_metrics({"loss": step / 8}, step - 1)
        logger.save()
        if step == 5:
            logger.log_metrics({"val_score": 0.5}, step - 1)
            logger.flush()
            wait_until(lambda: len(read_metrics(output)) == 5)  # it is sent by a thread
    os.kill(os.getpid(), signal.SIGKILL)


@FORKS
@pytest.mark.parametrize(("where", "live", "found"), [("local", 10, 5), ("local", 0, 7), ("s3", 0, 5)])
def test_a_killed_process_is_gone_on_from_where_a_checkpoint_is(tmp_path, request, forked, where, live, found):
    output = f"{request.getfixturevalue('s3_bucket')}/run" if where == "s3" else str(tmp_path / "run")
    process = forked(log_until_killed, output, tmp_path / "first", live, dict(os.environ))
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert steps_of(output) == list(range(1, found + 1))
    second = RunLogger(output, 5, tmp_path / "second")
    for step in range(6, 10):
        second.log_metrics({"loss": float(step)}, step - 1)
    second.finalize("success")
    losses = [step / 8 for step in range(1, 6)] + [6.0, 7.0, 8.0, 9.0]
    assert column(output, "loss") == [(step + 1, str(loss)) for step, loss in enumerate(losses)]
    assert column(output, "val_score")[3:6] == [(4, ""), (5, "0.5"), (6, "")]


# --- stores --------------------------------------------------------------------------------------------------------


def test_a_store_gets_all_and_nobody_waits_for_it(tmp_path, memory, sent):
    logger = RunLogger(memory, 0, tmp_path)
    for first in (1, 11, 21):  # the first is held up; the others would send no more than the last
        log_steps(logger, first, first + 9)
        logger.flush()
        wait_until(lambda: sent.threads)
    assert steps_of(memory) == []
    log_steps(logger, 31, 35)
    threading.Timer(0.3, sent.gate.set).start()
    logger.finalize("success")
    assert steps_of(memory) == list(range(1, 36))
    assert len(sent.threads) == 2
    assert threading.current_thread().name not in sent.threads
    (events,) = (tmp_path / TENSORBOARD_FOLDER).iterdir()
    assert storage.read_bytes(f"{memory}/{TENSORBOARD_FOLDER}/{events.name}") == events.read_bytes()


def test_what_cannot_be_sent_is_an_error_at_the_next_occasion(tmp_path, s3_bucket):
    logger = RunLogger(f"{s3_bucket}-that-is-not-there/run", 0, tmp_path)
    log_steps(logger, 1, 5)
    logger.flush()
    wait_until(lambda: logger._uploads[0].done())
    with pytest.raises(UserError, match=r"that-is-not-there.*cannot be written"):
        logger.flush()
    with pytest.raises(UserError, match=r"that-is-not-there.*cannot be written"):
        logger.finalize("failed")


def test_an_error_ends_no_more_than_one_flush(tmp_path, memory, monkeypatch):
    def fail(path, uri):
        raise storage.TransientError(f"{uri}: the store is away")

    logger = RunLogger(memory, 0, tmp_path)
    log_steps(logger, 1, 5)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", fail)
        logger.flush()
        wait_until(lambda: logger._uploads[0].done())
    with pytest.raises(storage.TransientError, match="is away"):
        logger.flush()
    logger.finalize("failed")
    assert steps_of(memory) == [1, 2, 3, 4, 5]


def log_to_a_full_disk(folder):
    """Log for ever; the system's limit on the size of files takes the place of the disk's end."""
    import resource

    logger = RunLogger(str(folder), 0, folder)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        for step in itertools.count():
            logger.log_metrics({"loss": step / 8}, step)
            logger.flush()
    except OSError as error:
        sys.exit(error.errno)


@FORKS
def test_a_full_disk_is_an_error_and_not_a_wait_for_ever(tmp_path, forked):
    process = forked(log_to_a_full_disk, tmp_path)
    process.join(300)
    assert process.exitcode == errno.EFBIG
    steps = steps_of(str(tmp_path))
    assert steps == list(range(1, len(steps) + 1))


def test_tensorboard_reads_what_was_logged(tmp_path):
    """By its own file format: each event with its step, after the mark from which older ones count no more."""
    from tensorboardX.proto.event_pb2 import Event

    logger = RunLogger(str(tmp_path), 3, tmp_path)
    logger.log_metrics({"loss": 0.5, "lr": 1.0}, 3)
    logger.finalize("success")
    (path,) = (tmp_path / TENSORBOARD_FOLDER).iterdir()
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (4, 1)
    assert [(event.step, event.summary.value[0].tag, event.summary.value[0].simple_value) for event in events[2:]] == [
        (4, "loss", 0.5),
        (4, "lr", 1.0),
    ]
