"""The kernel that an exercise is graded in: `python guard.py SETTINGS.json -f CONNECTION_FILE`

An ordinary Python kernel with less reach, so that a careless or a curious notebook does no harm:

everywhere  an audit hook judges what Python announces to such hooks. It refuses to read the solutions,
            the tests' model answers, other submissions, gradebooks and notebooks, to make, change or
            remove files outside the work folder, to start programs, to signal other processes and to
            talk to other machines; each attempt goes to a log. Before every cell the functions of
            `utils` and of torch that a cell has replaced are put back.
Linux       the kernel's own Landlock (5.13 and later; the network from 6.7, signals from 6.12) holds
            the same for compiled code: only Python, the system's libraries, the course's `utils` and
            `data` can be read, only the work folder can be written, no program started, no TCP
            connection opened. A limit on memory makes an allocation fail instead of the machine.

What this does not stop: the checks run in the same process as the answers, so who digs in frames,
`gc` or `ctypes` can read the hidden tests of a running cell, or bend a check so that it passes; who
replaces what the hook itself uses (`os.path`, `builtins`) can blind it. The hook sees names, not
files: `os.stat` tells of every file that it is there, and a link that another thread turns around
between the judgement and the deed gets through. Compiled code announces nothing (numpy.fromfile,
torch.save, video files, the ATTACH of SQLite, `fcntl.ioctl`): without Landlock it reads and writes
what it likes. UDP is refused to Python code only, and the answers that `utils` holds (it is the
course) can be imported. Code that you take for hostile belongs in a container or a virtual machine.
"""

import ctypes
import importlib
import json
import os
import re
import signal
import stat
import sys
import unicodedata
from functools import partial
from pathlib import Path, PosixPath, WindowsPath
from urllib.parse import unquote

REFUSAL = "the grader does not let an exercise "
ATTEMPTS = 20  # as many are written down; the rest is refused in silence

# Ways around the hook that Python (3.11 to 3.13) announces to nobody: module -> functions.
UNANNOUNCED = {
    "_posixsubprocess": ("fork_exec",),  # how multiprocessing starts a fresh Python
    "posix": ("mkfifo", "mknod", "chroot", "unshare", "setns"),
    "_signal": ("pidfd_send_signal",),
}
REGISTRY = {f"winreg.{name}" for name in (
    "ConnectRegistry", "CreateKey", "DeleteKey", "DeleteValue", "LoadKey", "SaveKey", "SetValue",
    "DisableReflectionKey", "EnableReflectionKey")}  # fmt: skip

# Landlock's rights, from linux/landlock.h: 16 on files, of which a plain file knows five.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REFER, TRUNCATE, IOCTL = (
    1 << n for n in (0, 1, 2, 3, 13, 14, 15)
)
ON_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/opt", "/nix", "/proc", "/sys", "/etc/ld.so.cache", "/etc/localtime",
          "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/fonts", "/etc/mime.types",
          "/etc/os-release", "/dev/urandom", "/dev/random", "/dev/zero")  # fmt: skip


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def landlock_version():
    """Which Landlock this Linux offers: 1, 2, …; 0 where there is none."""
    if not sys.platform.startswith("linux"):
        return 0
    version = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(version, 0)


def landlock(readable, writable, tcp=False):
    """Leave this process, for good, only these files and folders; True where the system can.

    tcp: it may listen on TCP ports (a kernel without UNIX sockets needs that), but not connect.
    OSError where Landlock is there but refuses.
    """
    version = landlock_version()
    if not version:
        return False
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number, *arguments):
        result = libc.syscall(number, *arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
        return result

    every = (1 << 13) - 1
    every |= (
        (REFER if version > 1 else 0)
        | (TRUNCATE if version > 2 else 0)
        | (IOCTL if version > 4 else 0)
    )
    rules = _Ruleset(every, (2 if tcp else 3) if version > 3 else 0, 3 if version > 5 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = call(444, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    read = READ_FILE | READ_DIR
    for names, rights in (
        (readable, read),
        (writable, every & ~(EXECUTE | IOCTL)),
        ([os.devnull], read | WRITE_FILE),
    ):
        for name in names:
            if os.path.exists(name):
                folder = os.open(name, os.O_PATH | os.O_CLOEXEC)
                beneath = _Beneath(rights if os.path.isdir(name) else rights & ON_A_FILE, folder)
                call(445, ruleset, 1, ctypes.byref(beneath), ctypes.c_uint32(0))
                os.close(folder)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, without which Landlock is refused
    call(446, ruleset, ctypes.c_uint32(0))
    os.close(ruleset)
    return True


def limit(memory):
    """Cap this process's memory (bytes) where the system can: an allocation beyond it fails."""
    if sys.platform == "win32":
        return
    import resource

    for name, most in (("RLIMIT_DATA", memory), ("RLIMIT_FSIZE", 2**30), ("RLIMIT_CORE", 0)):
        hard = resource.getrlimit(getattr(resource, name))[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(getattr(resource, name), (most, most))
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG: no kernel outlives its grader


def announce():
    """Have the hook told of UNANNOUNCED, too; it refuses all of them, so nothing is called."""
    if os.name != "posix":
        return
    for module_name, names in UNANNOUNCED.items():
        for name in names:
            for module in (importlib.import_module(module_name), os, signal):
                if hasattr(module, name):
                    setattr(module, name, partial(sys.audit, f"guard.{name}"))


def plain(name):
    """A path as true text: a subclass could tell the hook one thing and the system another."""
    if isinstance(name, str):
        return str.__str__(name)
    return os.fsdecode(bytes(memoryview(name)))


def behind(descriptor):
    """Path of the file or folder behind a descriptor; None if there is none or the system is silent."""
    try:
        if sys.platform == "darwin":
            import fcntl

            path = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")
        else:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return None
    return os.fsdecode(path) if os.path.isabs(path) else None


def open_folders():
    """Paths of the folders that this process holds open; None if the system is silent about one."""
    try:
        numbers = os.listdir("/dev/fd" if sys.platform == "darwin" else "/proc/self/fd")
    except OSError:
        return None
    folders = []
    for number in map(int, numbers):
        try:
            if stat.S_ISDIR(os.fstat(number).st_mode):
                folders.append(behind(number))
        except OSError:
            pass  # closed by now: it was the list's own
    return None if None in folders else folders


def audit_hook(forbidden, writable, log):
    """A hook for sys.addaudithook that raises PermissionError; `log` is called with each attempt."""
    # macOS and Windows find a file by other capitals, too, and macOS by another spelling of umlauts
    lenient = sys.platform in ("darwin", "win32")
    has_dir_fd = os.open in os.supports_dir_fd
    seen = set()
    here = os.getpid()

    def spelt(path):
        return unicodedata.normalize("NFC", path).casefold() if lenient else path

    forbidden = [spelt(os.path.realpath(name)) for name in forbidden]
    writable = [os.path.realpath(name) for name in writable]

    def refuse(what):
        if what not in seen and len(seen) < ATTEMPTS:
            seen.add(what)
            log(what)
        raise PermissionError(REFUSAL + what)

    def within(path, places):
        return any(path == place or path.startswith(place + os.sep) for place in places)

    def reading(path):
        if within(spelt(path), forbidden) or path.lower().endswith(".ipynb"):
            refuse(f"read {path}")

    def writing(path):
        if not within(path, writable) and path != os.devnull:
            refuse(f"write {path}")

    def places(name, folder=-1):
        """Where a name lies, and where it leads: another place if it is a link. () if unknown.

        name: a path, a descriptor or None, the current folder. folder: its dir_fd, -1 for none.
        """
        if isinstance(name, int):
            path = behind(name)
            return (path, path) if path else ()
        path = "." if name is None else plain(name)
        if folder != -1 and not os.path.isabs(path):
            base = behind(folder)
            if base is None:
                refuse("use a dir_fd that cannot be judged")
            path = os.path.join(base, path)
        leads = os.path.realpath(path)
        parent, last = os.path.split(path)
        if last in ("", os.curdir, os.pardir):
            return leads, leads
        return os.path.join(os.path.realpath(parent), last), leads

    def read(name, folder=-1):
        for path in places(name, folder):
            reading(path)

    def write(name, folder=-1):
        for path in places(name, folder):
            writing(path)

    def change(name, folder=-1):
        """Judge the removal of a name or a new one: where it leads does not matter."""
        writing(places(name, folder)[0])

    def mark(name, folder=-1):
        """Judge a change of owner, mode, …; the event does not tell whether it follows a link."""
        if isinstance(name, int) and behind(name) is None:  # perhaps it was opened only to read
            refuse("change a file by a descriptor that cannot be judged")
        write(name, folder)

    def opened(name, mode, flags):
        if isinstance(name, int):
            return  # a descriptor: its opening was judged
        name, folders = plain(name), [""]
        if mode is None and has_dir_fd and not os.path.isabs(name):
            # os.open: the event does not tell its dir_fd, which can be any folder that is open
            candidates = open_folders()
            if candidates is None:
                refuse("use os.open with a dir_fd that cannot be judged")
            folders += candidates
        changes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_TEMPORARY", 0)
        for folder in folders:
            path = os.path.realpath(os.path.join(folder, name))
            if set(mode) & set("wax+") if mode else flags & changes:
                writing(path)
            reading(path)

    def database(name):
        if type(name) in (PosixPath, WindowsPath):
            name = os.fspath(name)
        if not isinstance(name, (str, bytes)):
            refuse("open a database whose name cannot be judged")
        name = plain(name)
        address = re.fullmatch(r"file:(?://(?:localhost)?(?=/))?([^?#]*).*", name, re.DOTALL)
        for path in {name, unquote(address[1]) if address else name} - {"", ":memory:"}:
            read(path)
            write(path)

    def connected(address):
        host = tuple.__getitem__(address, 0) if isinstance(address, tuple) else "localhost"
        if isinstance(host, (str, bytes)):
            host = plain(host)
        local = host in (None, "", "localhost", "::1")
        if not local and not re.fullmatch(r"127(\.[0-9]+){1,3}", str(host)):
            refuse(f"connect to {host}")

    def started(program):
        name = os.path.basename(os.fsdecode(program).split()[0]) if program else "a program"
        if name in ("uname", "fc-list", "ldconfig", "gcc", "cc", "ld", "objdump", "lscpu"):
            raise PermissionError(REFUSAL + f"start {name}")  # libraries ask for these: no attempt
        refuse(f"start {name}")

    def hook(event, values):
        match event:
            case "open":
                opened(*values)
            case "os.listdir" | "os.scandir" | "os.chdir" | "os.getxattr" | "os.listxattr":
                read(values[0])
            case "os.remove" | "os.rmdir":
                change(values[0], values[1])
            case "os.mkdir":
                change(values[0], values[2])
            case "os.rename":
                read(values[0], values[2])
                change(values[0], values[2])
                change(values[1], values[3])
            case "os.link":
                read(values[0], values[2])
                write(values[0], values[2])  # through its second name it could be written
                change(values[1], values[3])
            case "os.symlink" | "_winapi.CreateJunction":
                target, name, *folder = values
                change(name, *folder)
                read(os.path.join(os.path.dirname(places(name, *folder)[0]), plain(target)))
            case "os.truncate":
                write(values[0])
            case "os.chmod" | "os.chown" | "os.utime":
                mark(values[0], values[-1])
            case "os.setxattr" | "os.removexattr" | "os.chflags":
                mark(values[0])
            case "_winapi.CopyFile2":
                read(values[0])
                write(values[1])
            case "_winapi.CreateFile" if not values[0].startswith("\\\\.\\pipe\\"):
                read(values[0])
                write(values[0])
            case "sqlite3.connect":
                database(values[0])
            case "subprocess.Popen" | "os.system" | "os.exec" | "os.posix_spawn":
                started(values[0])
            case "os.spawn":
                started(values[1])
            case "os.fork" | "os.forkpty" | "pty.spawn" | "os.startfile" | "_winapi.CreateProcess":
                refuse("start a process")
            case "guard.fork_exec" | "_posixsubprocess.fork_exec":
                if "multiprocessing.resource_tracker" in repr(values):  # a lock's: no attempt
                    raise PermissionError(REFUSAL + "start a process")
                refuse("start a process")
            case "import" if values[0] in ("_interpreters", "_xxsubinterpreters"):
                refuse("start another interpreter")  # which would have no hook
            case "cpython.PyInterpreterState_New":
                refuse("start another interpreter")
            case "os.kill" | "os.killpg" | "_winapi.OpenProcess" if values[0] != here:
                refuse("signal another process")
            case "resource.prlimit" if values[0] not in (0, here):
                refuse("limit another process")
            case "socket.connect" | "socket.bind" | "socket.sendto" | "socket.sendmsg":
                connected(values[1])
            case "socket.getaddrinfo" | "socket.gethostbyname" | "socket.gethostbyaddr":
                connected((values[0],))
            case "socket.getnameinfo":
                connected(values[0])
            case _ if event.startswith("guard."):
                refuse(f"call {event.removeprefix('guard.')}")
            case _ if event in REGISTRY:
                refuse("write the registry")

    return hook


def put_back(shell, log):
    """A callback around each cell: what `utils` and torch offered when first seen, they offer again."""
    saved, bound, checks = {}, {}, sys.modules["utils.checks"]

    def watched():
        return {
            name: module
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] == "utils" or name in ("torch", "torch.nn.functional")
        }

    def callback(_):
        sys.modules["utils.checks"] = checks
        for transformers in (shell.ast_transformers, shell.input_transformers_post):
            if transformers:
                log("replaced Python's syntax")
                transformers.clear()
        for module_name, module in watched().items():
            first = saved.setdefault(
                module_name,
                {
                    name: (value, getattr(value, "__code__", None))
                    for name, value in vars(module).items()
                    if callable(value)
                },
            )
            for name, (value, code) in first.items():
                now = getattr(module, name, None)
                if now is value and getattr(value, "__code__", None) is code:
                    continue
                maker = str(getattr(now, "__module__", ""))
                if module_name.startswith("torch") and maker.startswith("torch"):
                    continue  # torch wraps some functions of its own when it first needs them
                log(f"replaced {module_name}.{name}")
                setattr(module, name, value)
                if code is not None:
                    value.__code__ = code
        given = {name: pair[0] for name, pair in saved["utils.checks"].items()}
        given = {name: value for name, value in given.items() if name.startswith("check_")}
        given["checks"] = checks
        for name, value in given.items():
            if shell.user_ns.get(name) is value:
                bound[name] = value
            elif name in bound:
                log(f"replaced {name}")
                shell.user_ns[name] = value

    return callback


def _no_shell(command, log):
    """What `!pip install …` does here: nothing, so that the lines after it still run."""
    log(f"start {command.split()[0]}" if command.split() else "start a shell")
    print(f"{REFUSAL}run {command}")


def main():
    """Shut the doors, then be an IPython kernel."""
    settings = json.loads(Path(sys.argv.pop(1)).read_text(encoding="utf-8"))
    journal = os.open(settings["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def log(what):
        os.write(journal, (what.replace("\n", " ") + "\n").encode("utf-8", "replace"))

    limit(settings["memory"])
    libraries = [*sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)]
    private = [os.path.realpath(place) for place in settings["forbidden"]]
    libraries = [  # an editable install puts the whole repository on the path, solutions and all
        place
        for place in filter(None, map(os.path.realpath, filter(None, libraries)))
        if not any(secret.startswith(place.rstrip(os.sep) + os.sep) for secret in private)
    ]
    try:
        landlock(
            [
                *SYSTEM,
                sys.prefix,
                sys.base_prefix,
                sys.exec_prefix,
                *libraries,
                *settings["readable"],
            ],
            settings["writable"],
            settings["tcp"],
        )
    except OSError as error:
        print(f"grading without Landlock: {error}", file=sys.stderr)

    from ipykernel.kernelapp import IPKernelApp

    sys.path.insert(0, settings["course"])
    import utils.checks  # noqa: F401  (before any answer can change it)

    app = IPKernelApp.instance()
    app.initialize()
    mend = put_back(app.shell, log)
    app.shell.ask_exit = lambda: None  # exit() in a cell must not end the cells after it
    app.shell.system = lambda command: _no_shell(command, log)
    for event in (
        "pre_run_cell",
        "post_run_cell",
    ):  # after one cell, for its threads before the next
        app.shell.events.register(event, mend)
    announce()
    sys.addaudithook(audit_hook(settings["forbidden"], settings["writable"], log))
    app.start()


if __name__ == "__main__":
    main()
