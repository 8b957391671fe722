//! The fields of a config.json (runtime-spec 1.3.0: config.md, config-linux.md): names, types, which
//! are required, and which values there are. One table, so that all mistakes are found in one pass.

/// What a value must be.
#[derive(Debug)]
pub(super) enum Kind {
    Bool,
    /// A whole number within these bounds.
    Int(i128, i128),
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    List(&'static Kind),
    /// An object with any keys.
    Map(&'static Kind),
    Object(&'static [Field]),
    /// A part of the specification for other systems, or gone from it: ignored, with a warning.
    Foreign,
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
}

const fn may(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: false,
    }
}

const fn must(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        required: true,
    }
}

use Kind::{Bool, Foreign, Int, List, Map, Object, Text, Word};

const U16: Kind = Int(0, u16::MAX as i128);
const U32: Kind = Int(0, u32::MAX as i128);
const U64: Kind = Int(0, u64::MAX as i128);
const I64: Kind = Int(i64::MIN as i128, i64::MAX as i128);
const TEXTS: Kind = List(&Text);

/// The whole document.
pub(super) const SPEC: Kind = Object(&[
    must("ociVersion", Text),
    must("root", Object(&[must("path", Text), may("readonly", Bool)])),
    may("mounts", List(&MOUNT)),
    may("process", PROCESS),
    may("hostname", Text),
    may("domainname", Text),
    may("hooks", HOOKS),
    may("annotations", Map(&Text)),
    may("linux", LINUX),
    may("windows", Foreign),
    may("solaris", Foreign),
    may("vm", Foreign),
    may("zos", Foreign),
    may("freebsd", Foreign),
]);

/// The file of `mounts add` and `mounts remove`.
pub(super) const MOUNTS: Kind = Object(&[must("mounts", List(&MOUNT))]);

const MOUNT: Kind = Object(&[
    must("destination", Text),
    may("source", Text),
    may("type", Text),
    may("options", TEXTS),
    may("uidMappings", MAPPINGS),
    may("gidMappings", MAPPINGS),
]);

const MAPPINGS: Kind = List(&Object(&[
    must("containerID", U32),
    must("hostID", U32),
    must("size", U32),
]));

/// `process`, and the file of `exec --process`.
pub(super) const PROCESS: Kind = Object(&[
    may("terminal", Bool),
    may(
        "consoleSize",
        Object(&[must("height", U64), must("width", U64)]),
    ),
    may(
        "user",
        Object(&[
            must("uid", U32),
            must("gid", U32),
            may("umask", U32),
            may("additionalGids", List(&U32)),
            may("username", Text),
        ]),
    ),
    must("args", TEXTS),
    may("commandLine", Text),
    may("env", TEXTS),
    must("cwd", Text),
    may(
        "capabilities",
        Object(&[
            may("bounding", TEXTS),
            may("effective", TEXTS),
            may("inheritable", TEXTS),
            may("permitted", TEXTS),
            may("ambient", TEXTS),
        ]),
    ),
    may(
        "rlimits",
        List(&Object(&[
            must("type", Word(RLIMITS)),
            must("soft", U64),
            must("hard", U64),
        ])),
    ),
    may("noNewPrivileges", Bool),
    may("apparmorProfile", Text),
    may("oomScoreAdj", Int(-1000, 1000)),
    may("selinuxLabel", Text),
    may(
        "ioPriority",
        Object(&[
            must(
                "class",
                Word(&["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"]),
            ),
            must("priority", Int(0, 7)),
        ]),
    ),
    may("scheduler", SCHEDULER),
    may(
        "execCPUAffinity",
        Object(&[may("initial", Text), may("final", Text)]),
    ),
]);

const RLIMITS: &[&str] = &[
    "RLIMIT_AS",
    "RLIMIT_CORE",
    "RLIMIT_CPU",
    "RLIMIT_DATA",
    "RLIMIT_FSIZE",
    "RLIMIT_LOCKS",
    "RLIMIT_MEMLOCK",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_NOFILE",
    "RLIMIT_NPROC",
    "RLIMIT_RSS",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
    "RLIMIT_SIGPENDING",
    "RLIMIT_STACK",
];

const SCHEDULER: Kind = Object(&[
    must(
        "policy",
        Word(&[
            "SCHED_OTHER",
            "SCHED_FIFO",
            "SCHED_RR",
            "SCHED_BATCH",
            "SCHED_ISO",
            "SCHED_IDLE",
            "SCHED_DEADLINE",
        ]),
    ),
    may("nice", Int(-20, 19)),
    may("priority", Int(0, 99)),
    may(
        "flags",
        List(&Word(&[
            "SCHED_FLAG_RESET_ON_FORK",
            "SCHED_FLAG_RECLAIM",
            "SCHED_FLAG_DL_OVERRUN",
            "SCHED_FLAG_KEEP_POLICY",
            "SCHED_FLAG_KEEP_PARAMS",
            "SCHED_FLAG_UTIL_CLAMP_MIN",
            "SCHED_FLAG_UTIL_CLAMP_MAX",
        ])),
    ),
    may("runtime", U64),
    may("deadline", U64),
    may("period", U64),
]);

const HOOK: Kind = List(&Object(&[
    must("path", Text),
    may("args", TEXTS),
    may("env", TEXTS),
    may("timeout", Int(1, i32::MAX as i128)),
]));

const HOOKS: Kind = Object(&[
    may("prestart", HOOK),
    may("createRuntime", HOOK),
    may("createContainer", HOOK),
    may("startContainer", HOOK),
    may("poststart", HOOK),
    may("poststop", HOOK),
]);

const LINUX: Kind = Object(&[
    may("uidMappings", MAPPINGS),
    may("gidMappings", MAPPINGS),
    may("sysctl", Map(&Text)),
    may("resources", RESOURCES),
    may("cgroupsPath", Text),
    may(
        "namespaces",
        List(&Object(&[
            must("type", Word(NAMESPACES)),
            may("path", Text),
        ])),
    ),
    may(
        "devices",
        List(&Object(&[
            must("path", Text),
            must("type", Word(&["c", "b", "u", "p"])),
            may("major", I64),
            may("minor", I64),
            may("fileMode", U32),
            may("uid", U32),
            may("gid", U32),
        ])),
    ),
    may("netDevices", Map(&Object(&[may("name", Text)]))),
    may("seccomp", SECCOMP),
    may(
        "rootfsPropagation",
        Word(&[
            "shared",
            "rshared",
            "slave",
            "rslave",
            "private",
            "rprivate",
            "unbindable",
            "runbindable",
            "",
        ]),
    ),
    may("maskedPaths", TEXTS),
    may("readonlyPaths", TEXTS),
    may("mountLabel", Text),
    may(
        "intelRdt",
        Object(&[
            may("closID", Text),
            may("schemata", TEXTS),
            may("l3CacheSchema", Text),
            may("memBwSchema", Text),
            may("enableMonitoring", Bool),
            // Of 1.1 and 1.2; nobody knew what they meant.
            may("enableCMT", Foreign),
            may("enableMBM", Foreign),
        ]),
    ),
    may(
        "personality",
        Object(&[
            must("domain", Word(&["LINUX", "LINUX32"])),
            may("flags", TEXTS),
        ]),
    ),
    may(
        "timeOffsets",
        Map(&Object(&[
            may("secs", I64),
            may("nanosecs", Int(0, 999_999_999)),
        ])),
    ),
    may(
        "memoryPolicy",
        Object(&[
            must("mode", Word(MEMORY_MODES)),
            may("nodes", Text),
            may("flags", List(&Word(MEMORY_FLAGS))),
        ]),
    ),
]);

const NUMBERS: &[Field] = &[must("major", I64), must("minor", I64), must("rate", U64)];
const THROTTLE: Kind = List(&Object(NUMBERS));

/// `linux.resources`, and the file of `update --resources`.
pub(super) const RESOURCES: Kind = Object(&[
    may("unified", Map(&Text)),
    may(
        "devices",
        List(&Object(&[
            must("allow", Bool),
            may("type", Word(&["a", "b", "c", ""])),
            may("major", I64),
            may("minor", I64),
            may("access", Text),
        ])),
    ),
    may(
        "memory",
        Object(&[
            may("limit", I64),
            may("reservation", I64),
            may("swap", I64),
            may("kernel", I64),
            may("kernelTCP", I64),
            may("swappiness", U64),
            may("disableOOMKiller", Bool),
            may("useHierarchy", Bool),
            may("checkBeforeUpdate", Bool),
        ]),
    ),
    may(
        "cpu",
        Object(&[
            may("shares", U64),
            may("quota", I64),
            may("burst", U64),
            may("period", U64),
            may("realtimeRuntime", I64),
            may("realtimePeriod", U64),
            may("cpus", Text),
            may("mems", Text),
            may("idle", I64),
        ]),
    ),
    may("pids", Object(&[may("limit", I64)])),
    may(
        "blockIO",
        Object(&[
            may("weight", U16),
            may("leafWeight", U16),
            may(
                "weightDevice",
                List(&Object(&[
                    must("major", I64),
                    must("minor", I64),
                    may("weight", U16),
                    may("leafWeight", U16),
                ])),
            ),
            may("throttleReadBpsDevice", THROTTLE),
            may("throttleWriteBpsDevice", THROTTLE),
            may("throttleReadIOPSDevice", THROTTLE),
            may("throttleWriteIOPSDevice", THROTTLE),
        ]),
    ),
    may(
        "hugepageLimits",
        List(&Object(&[must("pageSize", Text), must("limit", U64)])),
    ),
    may(
        "network",
        Object(&[
            may("classID", U32),
            may(
                "priorities",
                List(&Object(&[must("name", Text), must("priority", U32)])),
            ),
        ]),
    ),
    may(
        "rdma",
        Map(&Object(&[may("hcaHandles", U32), may("hcaObjects", U32)])),
    ),
]);

const ACTION: Kind = Word(SECCOMP_ACTIONS);

const SECCOMP: Kind = Object(&[
    must("defaultAction", ACTION),
    may("defaultErrnoRet", U32),
    may("architectures", List(&Word(SECCOMP_ARCHITECTURES))),
    may("flags", List(&Word(SECCOMP_FLAGS))),
    may("listenerPath", Text),
    may("listenerMetadata", Text),
    may(
        "syscalls",
        List(&Object(&[
            must("names", TEXTS),
            must("action", ACTION),
            may("errnoRet", U32),
            may(
                "args",
                List(&Object(&[
                    must("index", U32),
                    must("value", U64),
                    may("valueTwo", U64),
                    must("op", Word(SECCOMP_OPERATORS)),
                ])),
            ),
        ])),
    ),
]);

/// `linux.namespaces[].type`
pub(super) const NAMESPACES: &[&str] = &[
    "pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time",
];

/// `linux.memoryPolicy.mode`
pub(super) const MEMORY_MODES: &[&str] = &[
    "MPOL_DEFAULT",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_WEIGHTED_INTERLEAVE",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_LOCAL",
];

/// `linux.seccomp.flags`
pub(super) const SECCOMP_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// `linux.seccomp.syscalls[].args[].op`
pub(super) const SECCOMP_OPERATORS: &[&str] = &[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

/// `linux.seccomp.syscalls[].action`, and the default one.
pub(super) const SECCOMP_ACTIONS: &[&str] = &[
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];

/// `linux.memoryPolicy.flags[]`
pub(super) const MEMORY_FLAGS: &[&str] = &[
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
];

/// Of the architectures those that oci-spec does not know, nor libseccomp 2.5. This program is for none
/// of these machines, and only there a filter could say anything of them.
pub(super) const FOREIGN_ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
];

/// `linux.seccomp.architectures[]`: those of the specification, and libseccomp's word for the
/// machine's own.
pub(super) const SECCOMP_ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_NATIVE",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// The kinds of hooks.
pub(super) fn hooks() -> Vec<&'static str> {
    match HOOKS {
        Object(fields) => fields.iter().map(|field| field.name).collect(),
        _ => Vec::new(),
    }
}
