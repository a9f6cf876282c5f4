"""The guard's audit hook alone, as on a system without Landlock: what it refuses, and what must work.

A hook cannot be taken off again, so each case runs beneath it in a fresh Python.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.grading import guard

# own/ may be written, outside/ only read, secret/ not even that. The names that cases use are made
# before the hook: base, own, outside, secret, file (outside), journal (open to append, outside).
BENEATH = """
import importlib, json, multiprocessing, os, resource, runpy, shutil, signal, socket, sqlite3, sys
import tempfile
from pathlib import Path
guard, base, case = runpy.run_path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
own, outside, secret = base / "own", base / "outside", base / "secret"
file = outside / "file"
journal = os.open(outside / "journal", os.O_WRONLY | os.O_APPEND)
os.chdir(own)
attempts, refused = [], None
guard["announce"]()
sys.addaudithook(guard["audit_hook"]([secret], [own], attempts.append))
try:
    exec(case, globals())
except PermissionError as error:
    refused = str(error)
print(json.dumps([refused, attempts]))
os._exit(0)
"""
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has neither dir_fd nor these calls")


@pytest.fixture
def base(tmp_path):
    base = tmp_path.resolve()
    for name in ("own/inner", "outside/folder", "secret"):
        (base / name).mkdir(parents=True)
    for name in ("own/mine", "own/inner/mine", "outside/file", "outside/journal", "secret/answer"):
        (base / name).write_text(name)
    (base / "own" / "shortcut").symlink_to(base / "outside" / "file")
    (base / "own" / "linked").symlink_to(base / "outside", target_is_directory=True)
    return base


def beneath(base, case):
    """(the refusal or None, the attempts that were written down) of a case."""
    own = str(base / "own")
    homes = dict.fromkeys(("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "TMPDIR", "TEMP", "TMP"), own)
    command = [sys.executable, "-c", BENEATH, guard.__file__, str(base), case]
    run = subprocess.run(command, env=os.environ | homes, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def state(folder):
    """All that a case could change in a folder."""
    paths = sorted([folder, *folder.rglob("*")])
    kept = [
        (path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_nlink) for path in paths
    ]
    return paths, kept, [path.read_text() for path in paths if path.is_file()]


# What is refused -------------------------------------------------------------------------------------

OUTSIDE = "there = os.open(outside, os.O_RDONLY); "
FILE = "there = os.open(file, os.O_RDONLY); "
REFUSED = {
    # names of files
    "truncate": ("os.truncate(file, 0)", "write outside/file"),
    "truncate by a path object": ("os.truncate(Path(file), 0)", "write outside/file"),
    "truncate by a link": ("os.truncate('shortcut', 0)", "write outside/file"),
    "truncate on opening": ("os.open(file, os.O_RDONLY | os.O_TRUNC)", "write outside/file"),
    "empty the log": ("os.ftruncate(journal, 0)", "write outside/journal"),
    "setxattr": ("os.setxattr(file, 'user.a', b'a')", "write outside/file"),
    "removexattr": ("os.removexattr(file, 'user.a')", "write outside/file"),
    "getxattr": ("os.getxattr(secret / 'answer', 'user.a')", "read secret/answer"),
    "listxattr": ("os.listxattr(secret / 'answer')", "read secret/answer"),
    "chmod by a link": ("os.chmod('shortcut', 0)", "write outside/file"),
    "chown by a link": ("os.chown('shortcut', -1, -1)", "write outside/file"),
    "utime by a link": ("os.utime('shortcut', (0, 0))", "write outside/file"),
    "remove in a linked folder": ("os.remove('linked/file')", "write outside/file"),
    "mkdir in a linked folder": ("os.mkdir('linked/new')", "write outside/new"),
    "rmdir in a linked folder": ("os.rmdir('linked/folder')", "write outside/folder"),
    "a second name": ("os.link(file, 'second'); open('second', 'w')", "write outside/file"),
    "a link from a folder": (
        "os.symlink('../../secret/answer', 'inner/it')", "read secret/answer"),
    "the current folder": ("os.chdir(secret); os.listdir()", "read secret"),
    "a database": ("sqlite3.connect(outside / 'new')", "write outside/new"),
    "a database's address": (
        "sqlite3.connect(f'file://{outside}/n%65w?mode=rwc', uri=True)", "write outside/new"),
    # descriptors that were opened to read
    "fchmod": (FILE + "os.chmod(there, 0)", "write outside/file"),
    "fchown": (FILE + "os.chown(there, -1, -1)", "write outside/file"),
    "futime": (FILE + "os.utime(there, (0, 0))", "write outside/file"),
    "fsetxattr": (FILE + "os.setxattr(there, 'user.a', b'a')", "write outside/file"),
    # names relative to an open folder
    "dir_fd: read": (
        "there = os.open(base, os.O_RDONLY); os.open('secret/answer', os.O_RDONLY, dir_fd=there)",
        "read secret/answer"),
    "dir_fd: list": (
        "there = os.open(base, os.O_RDONLY); os.listdir(os.open(b'secret', os.O_RDONLY, dir_fd=there))",
        "read secret"),
    "dir_fd: write": (
        OUTSIDE + "os.open('new', os.O_WRONLY | os.O_CREAT, dir_fd=there)", "write outside/new"),
    "dir_fd: open": (
        OUTSIDE + "open('file', 'w', opener=lambda name, flags: os.open(name, flags, dir_fd=there))",
        "write outside/file"),
    "dir_fd: remove": (OUTSIDE + "os.remove('file', dir_fd=there)", "write outside/file"),
    "dir_fd: rmdir": (OUTSIDE + "os.rmdir('folder', dir_fd=there)", "write outside/folder"),
    "dir_fd: mkdir": (OUTSIDE + "os.mkdir('new', dir_fd=there)", "write outside/new"),
    "dir_fd: rename from": (
        OUTSIDE + "os.rename('file', 'new', src_dir_fd=there)", "write outside/file"),
    "dir_fd: rename to": (
        OUTSIDE + "os.replace('mine', 'file', dst_dir_fd=there)", "write outside/file"),
    "dir_fd: link from": (
        OUTSIDE + "os.link('file', 'new', src_dir_fd=there)", "write outside/file"),
    "dir_fd: link to": (OUTSIDE + "os.link('mine', 'new', dst_dir_fd=there)", "write outside/new"),
    "dir_fd: symlink": (OUTSIDE + "os.symlink('mine', 'new', dir_fd=there)", "write outside/new"),
    "dir_fd: chmod": (OUTSIDE + "os.chmod('file', 0, dir_fd=there)", "write outside/file"),
    "dir_fd: chown": (OUTSIDE + "os.chown('file', -1, -1, dir_fd=there)", "write outside/file"),
    "dir_fd: utime": (OUTSIDE + "os.utime('file', (0, 0), dir_fd=there)", "write outside/file"),
    "dir_fd: climb": (
        "there = os.open('inner', os.O_RDONLY); os.remove('../../outside/file', dir_fd=there)",
        "write outside/file"),
    # names that lie
    "a lying name": (
        """class Name(str):
    def __getitem__(self, part): return self
    def partition(self, mark): return "", "", ""
    def split(self, *marks): return []
open(Name(secret / 'answer'))""",
        "read secret/answer"),
    "a lying database": (
        """class Name:
    def __fspath__(self, names=[str(outside / "new"), ":memory:"]): return names.pop()
sqlite3.connect(Name())""",
        "open a database whose name cannot be judged"),
    # what Python does not announce
    "spawn": (
        "import multiprocessing.util as it; it.spawnv_passfds(sys.executable.encode(), ['python'], [])",
        "start a process"),
    "mkfifo": ("os.mkfifo(outside / 'new')", "call mkfifo"),
    "mknod": ("os.mknod(outside / 'new')", "call mknod"),
    "chroot": ("os.chroot(base)", "call chroot"),
    "pidfd": (
        "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)", "call pidfd_send_signal"),
    # and the rest
    "prlimit": ("resource.prlimit(os.getppid(), resource.RLIMIT_CORE)", "limit another process"),
    "another interpreter": (
        "importlib.import_module('_interpreters' if sys.version_info > (3, 13) else '_xxsubinterpreters')",
        "start another interpreter"),
}  # fmt: skip
NEEDED = {"xattr": "setxattr", "mkfifo": "mkfifo", "mknod": "mknod", "pidfd": "pidfd_open"}


@posix
@pytest.mark.parametrize("case, attempt", REFUSED.values(), ids=REFUSED)
def test_it_is_refused_and_written_down(base, case, attempt, request):
    for word, function in NEEDED.items():
        if word in request.node.callspec.id and not hasattr(os, function):
            pytest.skip(f"no os.{function} here")
    if "prlimit" in case and not sys.platform.startswith("linux"):
        pytest.skip("no resource.prlimit here")
    before = state(base / "outside"), state(base / "secret")
    refused, attempts = beneath(base, case)
    assert (state(base / "outside"), state(base / "secret")) == before
    what, _, name = attempt.partition(" ")
    expected = f"{what} {base / name}" if what in ("read", "write") else attempt
    assert refused == guard.REFUSAL + expected
    assert attempts == [expected]


@pytest.fixture
def hook(base):
    """A function that gives the hook an event, and returns the attempt that it refuses, if it does."""
    judge = guard.audit_hook([base / "secret"], [base / "own"], lambda what: None)

    def refused(event, *values):
        try:
            judge(event, values)
        except PermissionError as error:
            return str(error).removeprefix(guard.REFUSAL).replace(str(base) + os.sep, "")
        return None

    return refused


def test_events_of_other_systems_are_judged(hook, base):
    mine, new, answer = (str(base / name) for name in ("own/new", "outside/new", "secret/answer"))
    read, write = f"read {Path('secret/answer')}", f"write {Path('outside/new')}"
    assert hook("os.chflags", new, 2) == write
    assert hook("_winapi.CopyFile2", answer, mine, 0) == read
    assert hook("_winapi.CopyFile2", mine, new, 0) == write
    assert hook("_winapi.CreateFile", new, 0, 0, 0, 0) == write
    assert hook("_winapi.CreateFile", answer, 0, 0, 0, 0) == read
    assert hook("_winapi.CreateFile", r"\\.\pipe\of-a-pool", 0, 0, 0, 0) is None
    assert hook("_winapi.CreateJunction", mine, new) == write
    assert hook("_winapi.CreateProcess", None, "id", None) == "start a process"
    assert hook("_winapi.OpenProcess", os.getppid(), 1) == "signal another process"
    assert hook("_winapi.OpenProcess", os.getpid(), 1) is None
    assert hook("winreg.SetValue", 1, "a", 1, "b") == "write the registry"
    assert hook("winreg.OpenKey", 1, "a", 1) is None


def test_names_that_begin_like_the_own_machine_s_are_other_machines(hook):
    for host in ("127.0.0.1.example.org", "127.example.org", b"127.example.org"):
        assert hook("socket.connect", None, (host, 80)).startswith("connect to 127.")
        assert hook("socket.getaddrinfo", host, 80, 0, 0, 0).startswith("connect to 127.")
    assert hook("socket.gethostbyaddr", "93.184.216.34") == "connect to 93.184.216.34"
    assert hook("socket.getnameinfo", ("93.184.216.34", 80)) == "connect to 93.184.216.34"
    for host in ("127.0.0.1", "127.1", "localhost", "::1", ""):
        assert hook("socket.connect", None, (host, 80)) is None


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_capitals_hide_nothing_where_they_make_no_difference(base, monkeypatch, platform):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "platform", platform)
        judge = guard.audit_hook([base / "Müller"], [base / "own"], lambda what: None)
    for name in ("MÜLLER/answer", "mu\u0308ller/answer"):
        with pytest.raises(PermissionError, match="read"):
            judge("open", (str(base / name), "r", 0))
    with pytest.raises(PermissionError, match="read"):
        judge("open", (str(base / "own" / "x.IPYNB"), "r", 0))
    with pytest.raises(PermissionError, match="write"):
        judge("open", (str(base / "OWN" / "x"), "w", 0))
    judge("open", (str(base / "own" / "x"), "w", 0))


@posix
def test_where_the_system_tells_nothing_of_descriptors_what_needs_them_is_refused(
    hook, base, monkeypatch
):
    monkeypatch.setattr(guard, "behind", lambda descriptor: None)
    monkeypatch.setattr(guard, "open_folders", lambda: None)
    monkeypatch.chdir(base / "own")
    assert (
        hook("open", "mine", None, os.O_RDONLY) == "use os.open with a dir_fd that cannot be judged"
    )
    assert hook("os.remove", "mine", 5) == "use a dir_fd that cannot be judged"
    assert hook("os.chmod", 5, 0, -1) == "change a file by a descriptor that cannot be judged"
    assert hook("os.setxattr", 5, "a", b"a", 0) is not None
    # whoever could open these was judged then
    assert hook("os.truncate", 5, 0) is None
    assert hook("os.listdir", 5) is None
    assert hook("open", 5, "w", 0) is None
    assert hook("open", str(base / "own" / "mine"), None, os.O_RDWR) is None
    assert hook("os.remove", str(base / "own" / "mine"), 5) is None
    assert hook("open", "mine", "w", 0) is None


def test_every_function_that_takes_a_dir_fd_is_known():
    judged = {"open", "remove", "unlink", "rmdir", "mkdir", "rename", "replace", "link", "symlink",
              "chmod", "chown", "utime"}  # fmt: skip
    no_secret = {"stat", "access", "readlink"}  # they tell of a file that it is there
    unannounced = {name for names in guard.UNANNOUNCED.values() for name in names}
    taking = {function.__name__ for function in os.supports_dir_fd}
    assert taking <= judged | no_secret | unannounced


# What must still work --------------------------------------------------------------------------------

ORDINARY = {
    "temporary folder": """
with tempfile.TemporaryDirectory() as folder:
    assert Path(folder).parent == own
    Path(folder, "a", "b").mkdir(parents=True)
    Path(folder, "a", "b", "c").write_text("c")
    Path(folder, "link").symlink_to(file)
assert not Path(folder).exists()
""",
    "temporary files": """
with tempfile.TemporaryFile() as one, tempfile.NamedTemporaryFile() as two:
    one.write(b"x"); one.truncate(0); two.write(b"x")
""",
    "rmtree": """
os.makedirs("tree/a/b"); Path("tree/a/b/c").write_text("c"); os.symlink("b", "tree/a/link")
os.chmod("tree/a/b/c", 0o400)
shutil.copytree("tree", "copy", symlinks=True); os.symlink(outside, "tree/a/out")
shutil.move("copy", "moved")
shutil.rmtree("tree"); shutil.rmtree(own / "moved")
assert not Path("tree").exists() and not Path("moved").exists()
""",
    "dir_fd": """
there = os.open("inner", os.O_RDONLY)
os.close(os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=there))
os.rename("new", "newer", src_dir_fd=there, dst_dir_fd=there)
os.link("newer", "second", src_dir_fd=there, dst_dir_fd=there)
os.symlink("newer", "link", dir_fd=there)
os.mkdir("deep", dir_fd=there); os.rmdir("deep", dir_fd=there)
os.utime("newer", dir_fd=there)
os.close(there)
for folder, _, names, there in os.fwalk("inner"):
    for name in names:
        os.remove(name, dir_fd=there)
assert os.listdir("inner") == []
""",
    "own files": """
Path("new").touch(); Path("new").touch(); Path("new").chmod(0o600)
os.truncate("new", 0); os.replace("new", "newer"); os.link("newer", "second")
os.symlink("newer", "link"); Path("link").write_text("x"); os.remove("link"); os.remove("shortcut")
descriptor = os.open("newer", os.O_RDWR)
os.ftruncate(descriptor, 0); os.chmod(descriptor, 0o600); os.utime(descriptor); os.close(descriptor)
os.close(os.open("newest", os.O_WRONLY | os.O_CREAT))
""",
    "reading": """
assert file.read_text() == "outside/file" and len(os.listdir(outside)) == 3
there = os.open(outside, os.O_RDONLY)
assert os.read(os.open("file", os.O_RDONLY, dir_fd=there), 99) == b"outside/file"
os.chdir(outside); os.chdir(there); assert "file" in os.listdir()
open(os.devnull, "w").write("x")
shutil.copy2(file, own); shutil.copytree("folder", own / "folder")
""",
    "archives": """
shutil.make_archive("packed", "zip", "inner"); shutil.unpack_archive("packed.zip", "unpacked")
shutil.make_archive("packed", "gztar", "inner")
assert Path("unpacked/mine").read_text() == "own/inner/mine"
""",
    "databases": """
for name in (":memory:", "", "own.db", own / "own.db", "file::memory:?cache=shared"):
    sqlite3.connect(name, uri=True).execute("create table if not exists a (b)")
""",
    "this machine": """
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("localhost", server.getsockname()[1]))
socket.socketpair()
resource.prlimit(0, resource.RLIMIT_CORE) if hasattr(resource, "prlimit") else None
os.kill(os.getpid(), 0)
""",
    "progress bars": """
from tqdm.auto import tqdm
assert sum(tqdm(range(3))) == 3
""",
    "matplotlib": """
import matplotlib
matplotlib.use("agg")
from matplotlib import pyplot
pyplot.plot([1, 2]); pyplot.savefig("figure.png")
assert list(Path(matplotlib.get_cachedir()).glob("fontlist*.json"))
assert Path(matplotlib.get_cachedir()).is_relative_to(own)
""",
    "torch": """
import torch
from safetensors.torch import load_file, save_file
torch.save({"a": torch.ones(2)}, "weights.pt"); torch.save(torch.ones(2), own / "wéights.pt")
assert torch.load("weights.pt")["a"].sum() == 2
save_file({"a": torch.ones(2)}, "weights.safetensors")
assert load_file("weights.safetensors")["a"].sum() == 2
batches = torch.utils.data.DataLoader(torch.arange(4), batch_size=2)
assert len(list(batches)) == 2
""",
}


@posix
@pytest.mark.parametrize("case", ORDINARY.values(), ids=ORDINARY)
def test_what_an_exercise_does_is_let_through(base, case):
    before = state(base / "outside")
    assert beneath(base, case) == [None, []]
    assert state(base / "outside") == before


@posix
@pytest.mark.parametrize("case", ["Lock()", "Process(target=os.mkdir, args=('new',)).start()"])
def test_what_starts_a_helper_first_is_refused_but_no_attempt(base, case):
    refused, attempts = beneath(base, f"multiprocessing.get_context('spawn').{case}")
    assert refused == guard.REFUSAL + "start a process" and attempts == []
