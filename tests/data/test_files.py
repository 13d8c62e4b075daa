"""Finding and downloading files, against a server on this machine."""

import hashlib
import http.server
import tarfile
import threading
import types

import numpy as np
import pytest
from original_formats import CIFAR10, CIFAR100, write_cifar10, write_cifar100, write_idx

import landscape_jax as lj
from landscape_jax.data import files


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        self.send_response(200)  # promises more than it sends
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"\x1f\x8b" * 1000)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path/mirror, and breaks off whatever is under /cut/; own folder and cache are empty."""
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LANDSCAPE_JAX_DATA", str(tmp_path / "own"))
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)

    def handler(*args):
        return Handler(*args, directory=tmp_path / "mirror")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        serving.asked = []
        serving.url = f"http://127.0.0.1:{serving.server_port}/"
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def small_mnist(server, tmp_path, monkeypatch):
    """MNIST with the sums of small files, which the server has under /good/; takes the mirrors to use."""
    written = write_idx(tmp_path / "mirror" / "good")
    published = {path.name: files.File(path.name, md5(path)) for path in (tmp_path / "mirror" / "good").iterdir()}

    def use(*mirrors):
        source = lj.data.idx.MNIST._replace(files=published, mirrors=tuple(server.url + mirror for mirror in mirrors))
        monkeypatch.setattr("landscape_jax.data.idx.MNIST", source)

    use("good/")
    return written, use


@pytest.fixture
def small_cifar(server, tmp_path, monkeypatch):
    """CIFAR-10 and CIFAR-100 as archives of small files."""
    written = {}
    for name, write, member in [("CIFAR10", write_cifar10, CIFAR10), ("CIFAR100", write_cifar100, CIFAR100)]:
        source = getattr(lj.data.cifar, name)
        folder = tmp_path / "packing" / source.folder
        written[name] = write(folder)
        archive = tmp_path / "mirror" / source.archive.name
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, source.folder)
        held = {file: source.files[file] for file in member}
        changed = source._replace(files=held, archive=files.File(archive.name, md5(archive)), mirrors=(server.url,))
        monkeypatch.setattr(f"landscape_jax.data.cifar.{name}", changed)
    return written


def test_downloads_once_and_into_the_cache(small_mnist, server, tmp_path):
    written, _ = small_mnist
    for _ in range(2):
        (x, _), (x_test, _) = lj.data.mnist(30, 12)
    np.testing.assert_array_equal(np.round(x[..., 0] * 255), written["train"][0])
    np.testing.assert_array_equal(np.round(x_test[..., 0] * 255), written["t10k"][0])
    assert len(server.asked) == 4
    assert left(tmp_path / "cache" / "landscape_jax" / "mnist") == left(tmp_path / "mirror" / "good")
    assert not (tmp_path / "own").exists()


def test_only_the_files_that_are_needed(small_mnist, server):
    lj.data.mnist(3, 0)
    assert server.asked == ["/good/train-images-idx3-ubyte.gz", "/good/train-labels-idx1-ubyte.gz"]


def test_own_files_come_before_the_cache(small_mnist, server, tmp_path):
    written = write_idx(tmp_path / "own" / "mnist", seed=5)
    write_idx(tmp_path / "cache" / "landscape_jax" / "mnist", seed=6)
    (x, _), _ = lj.data.mnist(30, 0)
    np.testing.assert_array_equal(np.round(x[..., 0] * 255), written["train"][0])
    assert not server.asked


@pytest.mark.parametrize("bad", ["missing/", "cut/", "corrupt/"])
def test_the_next_mirror_where_one_fails(small_mnist, server, tmp_path, bad):
    written, use = small_mnist
    write_idx(tmp_path / "mirror" / "corrupt", seed=9)
    use(bad, "good/")
    (x, _), _ = lj.data.mnist(30, 0)
    np.testing.assert_array_equal(np.round(x[..., 0] * 255), written["train"][0])
    assert [path.split("/")[1] for path in server.asked] == [bad[:-1], "good"] * 2


@pytest.mark.parametrize("bad", ["missing/", "cut/", "corrupt/"])
def test_one_error_tells_all_and_leaves_nothing_behind(small_mnist, tmp_path, bad):
    _, use = small_mnist
    write_idx(tmp_path / "mirror" / "corrupt", seed=9)
    use(bad, "missing/")
    with pytest.raises(FileNotFoundError) as raised:
        lj.data.mnist(30, 0)
    told = str(raised.value)
    for name, file in lj.data.idx.MNIST.files.items():
        assert f"{name}  md5 {file.md5}" in told
    for fact in (tmp_path / "own" / "mnist", tmp_path / "cache" / "landscape_jax" / "mnist", *lj.data.idx.MNIST.mirrors):
        assert str(fact) in told
    assert "MNIST is not, or not wholly, on this machine" in told
    assert left(tmp_path / "cache") == []


def test_the_error_without_a_folder_of_ones_own(small_mnist, tmp_path, monkeypatch):
    small_mnist[1]("missing/")
    monkeypatch.delenv("LANDSCAPE_JAX_DATA")
    with pytest.raises(FileNotFoundError, match=r"Put them into .*landscape_jax/mnist, or set LANDSCAPE_JAX_DATA\."):
        lj.data.mnist(30, 0)


def test_an_interrupted_download_leaves_nothing_behind(small_mnist, tmp_path, monkeypatch):
    import pooch

    def interrupted(self, url, output_file, pooch, check_only=False):
        with open(output_file, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lj.data.mnist(30, 0)
    assert left(tmp_path / "cache") == []
    lj.data.mnist(30, 0)


def test_an_archive_is_unpacked_and_goes(small_cifar, server, tmp_path):
    (x, y), (x_test, _) = lj.data.cifar10(20, 7, one_hot=False)
    np.testing.assert_array_equal(np.round(x * 255), small_cifar["CIFAR10"]["data_batch_1.bin"][0])
    np.testing.assert_array_equal(y, small_cifar["CIFAR10"]["data_batch_1.bin"][1])
    np.testing.assert_array_equal(np.round(x_test * 255), small_cifar["CIFAR10"]["test_batch.bin"][0])
    (x, y), _ = lj.data.cifar100(15, 6, one_hot=False)
    np.testing.assert_array_equal(y, small_cifar["CIFAR100"]["train.bin"][1])
    assert server.asked == ["/cifar-10-binary.tar.gz", "/cifar-100-binary.tar.gz"]
    names = [f"cifar-10-batches-bin/{name}" for name in CIFAR10] + [f"cifar-100-binary/{name}" for name in CIFAR100]
    assert left(tmp_path / "cache" / "landscape_jax") == sorted(names)


def test_an_interrupted_unpacking_leaves_no_broken_file(small_cifar, tmp_path, monkeypatch):
    def interrupted(source, target):
        target.write(source.read(100))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "shutil", types.SimpleNamespace(copyfileobj=interrupted))  # the server needs its own
        with pytest.raises(KeyboardInterrupt):
            lj.data.cifar10(20, 7)
    assert left(tmp_path / "cache" / "landscape_jax") == ["cifar-10-binary.tar.gz"]
    lj.data.cifar10(20, 7)


def test_an_archive_without_the_files(small_cifar, monkeypatch):
    wants = files.File("data_batch_2.bin", None)
    source = lj.data.cifar.CIFAR10
    monkeypatch.setattr("landscape_jax.data.cifar.CIFAR10", source._replace(files=source.files | {"data_batch_2.bin": wants}))
    with pytest.raises(FileNotFoundError, match=r"holds no file cifar-10-batches-bin/data_batch_2.bin"):
        lj.data.cifar10(10_001, 0)


def test_the_error_of_an_archive(small_cifar, monkeypatch):
    source = lj.data.cifar.CIFAR100._replace(mirrors=("http://127.0.0.1:9/",))
    monkeypatch.setattr("landscape_jax.data.cifar.CIFAR100", source)
    with pytest.raises(FileNotFoundError, match=rf"(?s)train.bin.*test.bin.*cifar-100-binary of .*md5 {source.archive.md5}"):
        lj.data.cifar100(5, 0)
