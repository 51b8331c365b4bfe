"""The system calls that an untrusted program may not make, as a filter of the kernel (seccomp, classic BPF).

A list of what is refused, not of what is allowed: Python itself needs most calls.  Refused calls fail with EPERM, so a
program gets an exception, not a crash.  x86_64 and aarch64; elsewhere there is no filter and `build_filter` says so.

Standard library only: this runs between fork and exec.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> (AUDIT_ARCH, column of the tables below)."""

NEVER: dict[str, tuple[int, int]] = {
    # the network: no socket at all; a socketpair, which asyncio needs, stays possible
    "socket": (41, 198),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # what is shared outside the file system and outlives its maker
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # parts of the kernel with a history
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # the machine
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "quotactl": (179, 60),
    "syslog": (103, 116),
}

NEVER_WITHOUT_NAMESPACES: dict[str, tuple[int, int]] = {
    # leaving the process group, by which the whole tree is killed
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # signals to processes of the same user
    "kill": (62, 129),
    "tkill": (200, 130),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    # what Landlock lets through: owners, modes, times and attributes of files outside
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
}

ON_ONESELF: dict[str, tuple[int, int]] = {"prlimit64": (302, 261), "sched_setaffinity": (203, 122)}
"""Allowed with 0, meaning the caller, as the first argument."""

CLONE, CLONE3, TGKILL = (56, 220), (435, 435), (234, 131)
NEW_NAMESPACES = 0x7E020000
"""The flags CLONE_NEW*."""

LOAD, EQUALS, ANY_BIT, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
X32_BIT = 0x40000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def has_filter() -> bool:
    """Whether the numbers of this machine's system calls are known."""
    return platform.machine() in ARCHITECTURES


def build_filter(*, namespaces: bool, pid: int) -> bytes:
    """Return the filter as `struct sock_filter[]`.

    Args:
        namespaces: Whether the program has process and mount namespaces of its own; without them more is refused.
        pid: The program's own id: it may send signals to its own threads (`abort` does).

    Raises:
        ValueError: On a machine whose numbers are not known.
    """
    if not has_filter():
        raise ValueError(f"no table of system calls for {platform.machine()}")
    architecture, column = ARCHITECTURES[platform.machine()]
    code = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUALS, 1, 0, architecture),
        (RETURN, 0, 0, KILL),  # 32-bit calls have other numbers
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32_BIT),
        (RETURN, 0, 0, KILL),
    ]
    refused = NEVER if namespaces else {**NEVER, **NEVER_WITHOUT_NAMESPACES}
    for numbers in refused.values():
        if numbers[column] >= 0:
            code += [(EQUALS, 0, 1, numbers[column]), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    code += [
        (EQUALS, 0, 1, CLONE3[column]),
        (RETURN, 0, 0, REFUSE | errno.ENOSYS),
    ]  # its flags lie in memory; libc then uses clone
    code += _first_argument(CLONE[column], (ANY_BIT, 0, 1, NEW_NAMESPACES))
    if not namespaces:
        code += _first_argument(TGKILL[column], (EQUALS, 1, 0, pid))
        for numbers in ON_ONESELF.values():
            code += _first_argument(numbers[column], (EQUALS, 1, 0, 0))
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *one) for one in code)


def _first_argument(number: int, test: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Refuse a call by its first argument: `test` jumps over one instruction to allow it."""
    return [
        (EQUALS, 0, 4, number),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        test,
        (RETURN, 0, 0, REFUSE | errno.EPERM),
        (RETURN, 0, 0, ALLOW),
    ]


def install_filter(code: bytes) -> None:
    """Put the filter on this process and all it will start, for good.

    Raises:
        OSError: If the kernel refuses.
    """

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(code) // 8, code)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp filter refused")
