"""Files appear whole, claims are held by one, in folders and in buckets alike."""

import dataclasses
import json
import multiprocessing
import threading
import time

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer
from sweeps import CELL, Log, job

from enorm_jax import locking
from enorm_jax.errors import InputError
from enorm_jax.locking import TakenError, claim
from enorm_jax.results import read_results
from enorm_jax.storage import as_folder, check_writable, is_bucket, write_whole


@pytest.fixture(scope="module")
def bucket():
    """An S3 server on this machine, with one empty bucket."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_PROFILE", raising=False)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="runs")
        yield "s3://runs"
        server.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    """A new place for files."""
    if request.param == "folder":
        return as_folder(tmp_path)
    return as_folder(request.getfixturevalue("bucket")) / tmp_path.name


def test_what_is_written_is_whole_and_replaces_what_was_there(place):
    check_writable(place)
    write_whole(place / "a.json", b"1" * 100_000)
    write_whole(place / "a.json", b"{}")
    assert (place / "a.json").read_bytes() == b"{}"
    assert [path.name for path in place.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", b"old")
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_one_at_a_time_holds_a_claim(place):
    check_writable(place)
    path = place / "cell.lock"
    with claim(path):
        with pytest.raises(TakenError), claim(path):
            pass
        with pytest.raises(TakenError), claim(path):  # who failed has freed nothing
            pass
    with claim(path):
        pass


def outcomes_of(path, count):
    """What becomes of threads that ask for a claim at once."""
    together, over = threading.Barrier(count), threading.Barrier(count)
    outcomes = []

    def ask():
        together.wait()
        try:
            with claim(path):
                outcomes.append("held")
                over.wait()
        except TakenError:
            outcomes.append("taken")
            over.wait()

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_many_that_ask_at_once_one_gets_the_claim(bucket, tmp_path):
    path = as_folder(bucket) / tmp_path.name / "cell.lock"
    assert sorted(outcomes_of(path, 6)) == ["held"] + ["taken"] * 5


def left_behind(path, owner, age):
    """What a process leaves that died `age` seconds after it had renewed its claim."""
    renewed = time.time() - age
    path.write_bytes(json.dumps({"owner": owner, "token": owner, "renewed": renewed}).encode())


def test_a_buckets_claim_lapses_and_its_own_sweep_takes_it_over_before(
    bucket, tmp_path, monkeypatch
):
    path = as_folder(bucket) / tmp_path.name / "cell.lock"
    monkeypatch.setattr(locking, "SETTLES_IN", 0.0)
    left_behind(path, "a sweep", age=locking.LAPSES_AFTER - 10)
    with pytest.raises(TakenError), claim(path, "another", inherits=True):
        pass
    with pytest.raises(TakenError), claim(path, "a sweep"):  # its last process may live
        pass
    with claim(path, "a sweep", inherits=True):
        pass
    left_behind(path, "a sweep", age=locking.LAPSES_AFTER + 10)
    with claim(path, "another"):
        assert json.loads(path.read_text())["owner"] == "another"
    assert not path.exists()


def test_who_is_cut_off_and_replaced_leaves_the_new_claim_alone(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "RENEWED_EVERY", 0.05)
    path = as_folder(bucket) / tmp_path.name / "cell.lock"
    with claim(path):
        left_behind(path, "another", age=0)
        time.sleep(0.3)  # it would have renewed by now
        assert json.loads(path.read_text())["owner"] == "another"
    assert json.loads(path.read_text())["owner"] == "another"


def test_of_many_that_find_a_lapsed_claim_one_gets_it(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "SETTLES_IN", 0.5)
    path = as_folder(bucket) / tmp_path.name / "cell.lock"
    left_behind(path, "a sweep", age=locking.LAPSES_AFTER + 10)
    assert sorted(outcomes_of(path, 6)) == ["held"] + ["taken"] * 5


def test_a_holder_renews_its_claim(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "RENEWED_EVERY", 0.05)
    path = as_folder(bucket) / tmp_path.name / "cell.lock"
    # Not by read_text, which refuses an object that changes between its two requests.
    system, name = fsspec.core.url_to_fs(str(path))
    renewed = lambda: locking._read(system, name)["renewed"]  # noqa: E731
    with claim(path):
        first = renewed()
        for _ in range(100):
            if renewed() > first:
                break
            time.sleep(0.02)
        else:
            pytest.fail("not renewed in 2 seconds")


class Interrupted(Exception):
    """What ends a process."""


def interrupting(epochs):
    """Ends a sweep after a number of epochs."""
    left = [None] * (epochs - 1)

    def interrupt(cell):
        if not left:
            raise Interrupted
        left.pop()

    return interrupt


def test_a_cell_in_a_bucket_goes_on_where_it_was_stopped_with_the_bits_of_a_folder(
    bucket, tmp_path
):
    cell = dataclasses.replace(CELL, epochs=4)
    place = as_folder(bucket) / tmp_path.name
    with pytest.raises(Interrupted):
        job(place, save_params=True).run(cell, Log(interrupting(2)))
    assert cell.checkpoint_path(place).exists()
    log = Log()
    job(place, save_params=True).run(cell, log)
    assert log.told == {"start": 1, "epoch": 2, "done": 1}
    job(tmp_path, save_params=True).run(cell, Log())
    (ours,), (theirs,) = read_results(place), read_results(tmp_path)
    assert ours["curves"] == theirs["curves"]
    assert cell.params_path(place).read_bytes() == cell.params_path(tmp_path).read_bytes()
    names = {path.name for path in place.iterdir()}
    assert names == {cell.result_path(place).name, cell.params_path(place).name}


@pytest.mark.slow
def test_a_bucket_that_fails_in_the_middle_is_one_line_and_the_cell_goes_on(
    bucket, tmp_path, monkeypatch
):
    import botocore.exceptions

    cell = dataclasses.replace(CELL, epochs=4)
    place = as_folder(bucket) / tmp_path.name

    def fail(path, content):
        raise botocore.exceptions.EndpointConnectionError(endpoint_url="http://runs")

    with monkeypatch.context() as patch:
        break_off = lambda cell: patch.setattr("enorm_jax.checkpoint.write_whole", fail)  # noqa: E731
        with pytest.raises(OSError, match=r"s3://runs/.* failed \(Could not connect .* goes on"):
            job(place).run(cell, Log(break_off))
    log = Log()
    job(place).run(cell, log)
    assert log.told == {"start": 1, "epoch": 3, "done": 1}


def test_what_can_hold_no_files_is_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="neither a folder nor a bucket: write a path or one of"):
        as_folder("ftp://host/runs")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to --out .*file.*: choose another folder"):
        check_writable(tmp_path / "file")
    with monkeypatch.context() as patch:
        patch.setattr(fsspec, "get_filesystem_class", lambda name: __import__("no_such_library"))
        with pytest.raises(InputError, match=r"pip install 'enorm_jax\[gcs\]'"):
            as_folder("gs://bucket/runs")


def test_a_bucket_that_is_not_there_is_refused_in_one_line(bucket):
    with pytest.raises(InputError, match="cannot write to --out s3://no-such-bucket/runs"):
        check_writable(as_folder("s3://no-such-bucket/runs"))


def test_folders_are_absolute_and_buckets_are_told_apart(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert as_folder("runs") == tmp_path / "runs"
    assert as_folder(as_folder("runs")) == tmp_path / "runs"
    assert not is_bucket(as_folder("runs"))


@pytest.mark.slow
def test_a_folders_claim_is_freed_by_its_holders_death(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    holder = context.Process(target=hold, args=(tmp_path / "cell.lock", theirs), daemon=True)
    holder.start()
    assert ours.recv() == "held"
    with pytest.raises(TakenError), claim(tmp_path / "cell.lock"):
        pass
    holder.kill()
    holder.join()
    with claim(tmp_path / "cell.lock"):
        pass


def hold(path, pipe):
    with claim(path):
        pipe.send("held")
        pipe.recv()
