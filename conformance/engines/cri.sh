# containerd as Kubernetes drives it: the Container Runtime Interface, with a pod of a handler, which
# is what a RuntimeClass names.

up() {
    mkdir -p /etc/containerd /etc/cni/net.d "$work/cri"
    cri_config >/etc/containerd/config.toml
    cni_config >/etc/cni/net.d/10-lab.conflist
    protoc -I "$here" --python_out "$work/cri" cri.proto
    daemon containerd containerd
    comes ctr version
    ctr -n k8s.io images import "$work/busybox.tar"
    ctr -n k8s.io images import "$work/pause.tar"
    # The bridge is made with the first pod, and stays.
    pod warm
    clear
}
cri_config() {
    cat <<-END
	version = 2
	[plugins."io.containerd.grpc.v1.cri"]
	  sandbox_image = "docker.io/library/pause:latest"
	  # Nobody without CAP_SYS_RESOURCE lowers an oom_score_adj.
	  restrict_oom_score_adj = true
	  [plugins."io.containerd.grpc.v1.cri".cni]
	    bin_dir = "/usr/lib/cni"
	  [plugins."io.containerd.grpc.v1.cri".containerd]
	    default_runtime_name = "ours"
	  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.ours]
	    runtime_type = "io.containerd.runc.v2"
	    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.ours.options]
	      BinaryName = "$runtime"
	END
}
cni_config() {
    cat <<-END
	{"cniVersion": "0.4.0", "name": "lab", "plugins": [
	  {"type": "bridge", "bridge": "cri0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.77.0.0/24"}}]}
	END
}
clear() {
    local id
    for id in $(cri ListPodSandbox | jq -r '.items[]?.id'); do
        cri StopPodSandbox "pod_sandbox_id: '$id'"
        cri RemovePodSandbox "pod_sandbox_id: '$id'"
    done
}
down() { ends containerd; }
cri() { PYTHONPATH=$work/cri CRI_SOCKET=/run/containerd/containerd.sock "$here/cri" "$@"; }

# pod NAME [FIELDS]: a pod that runs; $pod is its id.
pod() {
    pod_config="{metadata: {name: '$1', uid: '$1', namespace: 'lab'}, log_directory: '$TMPDIR/logs'${2:+, $2}}"
    does cri RunPodSandbox "runtime_handler: 'ours', config: $pod_config"
    pod=$(jq -r .pod_sandbox_id <<<"$out")
}
# container NAME COMMAND [FIELDS]: a container in it that runs; $container is its id.
container() {
    does cri CreateContainer "pod_sandbox_id: '$pod', sandbox_config: $pod_config,
        config: {metadata: {name: '$1'}, image: {image: 'docker.io/library/busybox:latest'},
                 log_path: '$1.log', command: ['sh', '-c', '$2']${3:+, $3}}"
    container=$(jq -r .container_id <<<"$out")
    export container
    does cri StartContainer "container_id: '$container'"
}
# in_container COMMAND: what it prints, its exit code.
in_container() { cri ExecSync "container_id: '$container', timeout: 20, cmd: ['sh', '-c', '$1']"; }
state() { cri ContainerStatus "container_id: '$container'" | jq -r '.status | "\(.state) \(.exit_code // 0) \(.reason)"'; }
export -f cri in_container

test_a_pod() {
    pod one "hostname: 'one'"
    does cri PodSandboxStatus "pod_sandbox_id: '$pod'"
    shows '"name": "one"'
    container main 'echo started; sleep 1000'
    becomes 'CONTAINER_RUNNING 0 null' state
    does in_container 'hostname; ip -o addr show eth0 | grep -c 10.77'
    says $'one\n1'
    does cri StopContainer "container_id: '$container', timeout: 0"
    becomes 'CONTAINER_EXITED 137 Error' state
    does grep started "$TMPDIR/logs/main.log"
    does cri RemoveContainer "container_id: '$container'"
    does cri StopPodSandbox "pod_sandbox_id: '$pod'"
    does cri RemovePodSandbox "pod_sandbox_id: '$pod'"
}
test_exec_sync() {
    pod one
    container main 'sleep 1000' "working_dir: '/tmp', envs: [{key: 'K', value: 'v'}]"
    expect 5 in_container 'echo $K; pwd; echo err >&2; exit 5'
    says $'v\n/tmp\nerr'
    expect 1 cri ExecSync "container_id: '$container', cmd: ['nosuch']"
    shows 'executable file not found in $PATH'
    expect 1 cri ExecSync "container_id: '$container', cmd: ['sleep', '1000'], timeout: 1"
    shows 'timeout'
}
test_bad_commands() {
    pod one
    does cri CreateContainer "pod_sandbox_id: '$pod', sandbox_config: $pod_config,
        config: {metadata: {name: 'bad'}, image: {image: 'docker.io/library/busybox:latest'}, command: ['nosuch']}"
    container=$(jq -r .container_id <<<"$out")
    expect 1 cri StartContainer "container_id: '$container'"
    shows 'executable file not found in $PATH'
    becomes 'CONTAINER_EXITED 128 StartError' state
}
test_ends() {
    pod one
    container fails 'exit 3'
    becomes 'CONTAINER_EXITED 3 Error' state
    container succeeds true
    becomes 'CONTAINER_EXITED 0 Completed' state
    container greedy 'a=xx; while :; do a=$a$a; done' 'linux: {resources: {memory_limit_in_bytes: 20971520}}'
    becomes 'CONTAINER_EXITED 137 OOMKilled' state
    container graceful 'trap "exit 9" TERM; touch /up; while :; do sleep 0.1; done'
    comes in_container 'test -e /up'
    does cri StopContainer "container_id: '$container', timeout: 20"
    becomes 'CONTAINER_EXITED 9 Error' state
}
test_resources() {
    pod one "linux: {cgroup_parent: '/kubepods/burstable', sysctls: {key: 'net.ipv4.ip_forward', value: '1'}}"
    container main 'sleep 1000' "linux: {resources: {memory_limit_in_bytes: 67108864, cpu_quota: 50000, cpu_period: 100000,
        cpu_shares: 512, cpuset_cpus: '0', oom_score_adj: 900}, security_context: {namespace_options: {pid: CONTAINER}}}"
    limits="cd /sys/fs/cgroup; cat $memory $quota $cpus"
    does in_container "$limits; cat /proc/1/oom_score_adj /proc/sys/net/ipv4/ip_forward"
    says $'67108864\n50000'"$period"$'\n0\n900\n1'
    does cri UpdateContainerResources "container_id: '$container', linux: {memory_limit_in_bytes: 134217728}"
    does in_container "$limits"
    says $'134217728\n50000'"$period"$'\n0'
    does cri UpdateContainerResources "container_id: '$container', linux: {cpu_quota: 20000, cpu_shares: 300}"
    does in_container "$limits"
    says $'134217728\n20000'"$period"$'\n0'
    does cri ContainerStats "container_id: '$container'"
    shows usage_core_nano_seconds working_set_bytes
    clear
    find /sys/fs/cgroup -depth -path '*/kubepods*' -exec rmdir {} \;
}
test_namespaces() {
    pod one "linux: {security_context: {namespace_options: {pid: CONTAINER}}}"
    container first 'mkdir /www; echo shared >/www/index.html; httpd -f -h /www' 'linux: {security_context: {namespace_options: {pid: CONTAINER}}}'
    container second 'sleep 1000' 'linux: {security_context: {namespace_options: {pid: CONTAINER}}}'
    becomes shared in_container 'wget -qO- http://127.0.0.1'
    does in_container 'cat /proc/1/comm'
    says sleep
    pod together "linux: {security_context: {namespace_options: {pid: POD}}}"
    container main 'sleep 999' 'linux: {security_context: {namespace_options: {pid: POD}}}'
    does in_container 'ps'
    shows 'sleep 1000000' 'sleep 999'
    pod host "linux: {security_context: {namespace_options: {network: NODE, pid: NODE, ipc: NODE}}}"
    container main 'sleep 999' 'linux: {security_context: {namespace_options: {network: NODE, pid: NODE, ipc: NODE}}}'
    does in_container 'ps'
    shows containerd
}
test_security() {
    pod one
    container main 'sleep 1000' 'linux: {security_context: {run_as_user: {value: 1000}, run_as_group: {value: 1000}, supplemental_groups: [7],
        readonly_rootfs: true, no_new_privs: true, capabilities: {drop_capabilities: ["ALL"]}, masked_paths: ["/proc/uptime"], readonly_paths: ["/proc/sys"], seccomp: {}}}'
    does in_container 'id; grep -E "CapBnd|NoNewPrivs|Seccomp:" /proc/self/status; cat /proc/uptime; touch /tmp/x || echo refused'
    shows 'uid=1000(user) gid=1000(user) groups=7' $'CapBnd:\t0000000000000000' $'NoNewPrivs:\t1' $'Seccomp:\t2' refused
}
test_mounts_and_devices() {
    mkdir -p "$TMPDIR/v"
    touch "$TMPDIR/v/made"
    pod one
    container main 'sleep 1000' "mounts: [{container_path: '/v', host_path: '$TMPDIR/v', readonly: true}, {container_path: '/w', host_path: '$TMPDIR/v', propagation: PROPAGATION_HOST_TO_CONTAINER}],
        devices: [{container_path: '/dev/mine', host_path: '/dev/fuse', permissions: 'rw'}]"
    does in_container 'ls /v; touch /w/here; touch /v/x || echo refused; test -c /dev/mine'
    shows made refused
    does test -e "$TMPDIR/v/here"
}
test_a_terminal() {
    pod one
    container main 'tty' 'tty: true'
    becomes 'CONTAINER_EXITED 0 Completed' state
    does grep /dev/pts/0 "$TMPDIR/logs/main.log"
}
test_the_runtime_may_be_told_by_handler() {
    pod_config="{metadata: {name: 'none', uid: 'none', namespace: 'lab'}}"
    expect 1 cri RunPodSandbox "runtime_handler: 'nosuch', config: $pod_config"
    shows 'no runtime for "nosuch"'
}
