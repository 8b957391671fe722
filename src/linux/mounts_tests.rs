use super::*;

fn plan_of(mounts: &str, userns: bool) -> (Vec<MountStep>, Vec<Problem>) {
    let json = format!(
        r#"{{"ociVersion":"1.2.0","root":{{"path":"r"}},"mounts":{mounts},"linux":{{"mountLabel":"l:c1,c2"}}}}"#
    );
    let spec: Spec = serde_json::from_str(&json).unwrap();
    let facts = Facts {
        userns,
        netns_own: false,
        pidns_own: true,
        ipcns_own: true,
        cgroupns: true,
        selinux: true,
        cgroup: &View::default(),
    };
    plan(&spec, Path::new("/bundle"), &facts)
}

fn first(mounts: &str) -> MountStep {
    let (steps, problems) = plan_of(mounts, false);
    assert_eq!(problems, []);
    steps.into_iter().next().unwrap()
}

fn problem(mounts: &str) -> String {
    let (_, problems) = plan_of(mounts, false);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

#[test]
fn a_relative_source_starts_at_the_bundle() {
    let MountStep::Bind {
        source,
        target,
        options,
        ..
    } = first(r#"[{"destination":"data/../d","source":"src","options":["rbind","ro"]}]"#)
    else {
        panic!("not a bind");
    };
    assert_eq!(source, Path::new("/bundle/src"));
    assert_eq!(target, Path::new("/d"));
    assert_eq!(options.bind, Some(true));
    assert!(options.read_only());
}

#[test]
fn a_misspelt_option_of_a_bind_mount_is_a_problem() {
    let text = problem(r#"[{"destination":"/d","source":"/s","type":"bind","options":["rro "]}]"#);
    assert_eq!(text, r#"mounts[0].options: unknown option "rro ""#);
    for word in ["ro=recursive", "nosuid="] {
        let text = problem(&format!(
            r#"[{{"destination":"/d","source":"/s","options":["bind","{word}"]}}]"#
        ));
        assert!(text.contains(word), "{text}");
    }
    // What belongs to a file system does nothing there, and does no harm.
    first(r#"[{"destination":"/d","source":"/s","options":["bind","mode=755","size=1k"]}]"#);
}

#[test]
fn ids_are_mapped_as_an_option_says() {
    let bind = |option: &str| {
        format!(r#"[{{"destination":"/d","source":"/s","options":["bind","{option}"]}}]"#)
    };
    let MountStep::Bind {
        options,
        uid_maps,
        gid_maps,
        ..
    } = first(&bind("ridmap=uids=0-1000-2#5-7-1;gids=0-1001-1"))
    else {
        panic!("not a bind");
    };
    assert_eq!(options.idmap, Some(true));
    assert_eq!(idmap::text(&uid_maps), "0 1000 2\n5 7 1\n");
    assert_eq!(idmap::text(&gid_maps), "0 1001 1\n");
    let text = problem(&bind("idmap=uids=0-1234-1"));
    assert_eq!(text, "mounts[0].options: idmap: gids= is missing");
    let tmpfs =
        r#"[{"destination":"/d","type":"tmpfs","options":["idmap=uids=0-1-1;gids=0-1-1"]}]"#;
    assert!(problem(tmpfs).contains("bind mounts only"));
}

#[test]
fn a_bind_mount_needs_a_source() {
    assert!(problem(r#"[{"destination":"/d","type":"bind"}]"#).contains("source"));
}

#[test]
fn nothing_but_a_procfs_goes_over_proc() {
    assert!(problem(r#"[{"destination":"/proc/self","type":"tmpfs"}]"#).contains("/proc"));
    assert!(problem(r#"[{"destination":"/x/../proc","type":"tmpfs"}]"#).contains("/proc"));
    assert!(
        problem(r#"[{"destination":"/proc/sys/kernel","source":"/a","options":["bind"]}]"#)
            .contains("/proc")
    );
    first(r#"[{"destination":"/proc/cpuinfo","source":"/a","options":["bind"]}]"#);
    first(r#"[{"destination":"/proc","type":"proc","source":"proc"}]"#);
}

#[test]
fn options_that_fit_another_kind_are_problems() {
    assert!(
        problem(r#"[{"destination":"/d","type":"proc","options":["tmpcopyup"]}]"#)
            .contains("tmpcopyup")
    );
    assert!(
        problem(r#"[{"destination":"/d","type":"tmpfs","options":["idmap"]}]"#).contains("bind")
    );
}

#[test]
fn a_shared_network_namespace_shows_the_hosts_sysfs_in_a_user_namespace() {
    let mounts = r#"[{"destination":"/sys","type":"sysfs","options":["ro"]}]"#;
    assert!(
        matches!(&plan_of(mounts, true).0[0], MountStep::Bind { source, .. } if source == Path::new("/sys"))
    );
    assert!(matches!(first(mounts), MountStep::Fs { .. }));
}

#[test]
fn mounts_keep_their_order() {
    // The specification's: one that is listed later may lie inside of, or over, an earlier one.
    let mounts = r#"[
        {"destination":"/x/y","type":"tmpfs"},
        {"destination":"/x","source":"/a","options":["bind"]},
        {"destination":"/x/y/z","source":"/b","options":["rbind"]},
        {"destination":"/dev","type":"tmpfs"},
        {"destination":"/dev/shm","type":"tmpfs"}]"#;
    let (steps, problems) = plan_of(mounts, false);
    assert_eq!(problems, []);
    let targets: Vec<&Path> = steps
        .iter()
        .filter_map(|step| match step {
            MountStep::Bind { target, .. } | MountStep::Fs { target, .. } => Some(target.as_path()),
            _ => None,
        })
        .collect();
    assert_eq!(
        targets,
        ["/x/y", "/x", "/x/y/z", "/dev", "/dev/shm"].map(Path::new)
    );
    // Devices come last: /dev is a mount of the container's own.
    let first_device = steps
        .iter()
        .position(|step| matches!(step, MountStep::Device(_)));
    assert_eq!(first_device, Some(targets.len()));
}

#[test]
fn late_steps_are_in_the_order_of_their_power() {
    let json = r#"{"ociVersion":"1.2.0","root":{"path":"r","readonly":true},"linux":{
        "maskedPaths":["/m"],"readonlyPaths":["/r"],"rootfsPropagation":"unbindable"}}"#;
    let spec: Spec = serde_json::from_str(json).unwrap();
    let steps = plan_late(&spec);
    assert_eq!(
        steps,
        [
            MountStep::ReadOnlyRoot,
            MountStep::ReadOnly("/r".into()),
            MountStep::Mask(vec!["/m".into()]),
            MountStep::Propagation(MsFlags::MS_UNBINDABLE.bits()),
        ]
    );
}

#[test]
fn what_is_mounted_anew_gets_the_label() {
    let data = |mounts| match first(mounts) {
        MountStep::Fs { options, .. } | MountStep::Bind { options, .. } => options.data.join(","),
        other => panic!("{other:?}"),
    };
    let label = r#"context="l:c1,c2""#;
    let tmpfs = r#"[{"destination":"/t","type":"tmpfs","source":"t","options":["size=1k"]}]"#;
    assert_eq!(data(tmpfs), format!("size=1k,{label}"));
    assert_eq!(data(r#"[{"destination":"/p","type":"proc"}]"#), "");
    assert_eq!(
        data(r#"[{"destination":"/b","source":"/s","options":["bind"]}]"#),
        ""
    );
    let own = r#"[{"destination":"/t","type":"tmpfs","options":["context=x"]}]"#;
    assert_eq!(data(own), "context=x");
}
