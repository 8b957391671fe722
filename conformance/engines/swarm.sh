# A swarm of one node: services of three replicas.

. "$here/docker.sh"
up() {
    start_docker
    docker swarm init --advertise-addr 127.0.0.1
    comes docker network inspect ingress docker_gwbridge
    clear
}
clear() {
    # shellcheck disable=SC2046 # a list
    docker service rm $(docker service ls -q) || true
    comes prints '' docker ps -aq
}
down() {
    docker swarm leave --force
    ends dockerd
}

# replicas TEXT: as `docker service ls` says.
replicas() { docker service ls --format '{{.Name}} {{.Replicas}}'; }
# each COMMAND: what it prints in each container of the service.
each() {
    local id
    for id in $(docker ps -q --filter label=com.docker.swarm.service.name=web); do docker exec "$id" sh -c "$1"; done
}

test_a_service_of_three_replicas() {
    does docker service create --name web --replicas 3 --env VERSION=1 --limit-memory 64m --no-resolve-image busybox sleep 1000
    does docker service ls --format '{{.Name}} {{.Replicas}}'
    says 'web 3/3'
    does docker service ps web --format '{{.CurrentState}}'
    shows Running
    does docker inspect -f '{{.HostConfig.Runtime}}' "$(docker ps -q | head -n 1)"
    says ours
    becomes $'1\n1\n1' each 'echo $VERSION'
    becomes $'67108864\n67108864\n67108864' each "cat /sys/fs/cgroup/$memory"
}
test_update_and_rollback() {
    does docker service create --name web --replicas 3 --env VERSION=1 --no-resolve-image busybox sleep 1000
    does docker service update --env-add VERSION=2 --stop-grace-period 0s --update-parallelism 3 web
    becomes $'2\n2\n2' each 'echo $VERSION'
    does docker service rollback web
    becomes $'1\n1\n1' each 'echo $VERSION'
    does docker service update --update-failure-action rollback --rollback-parallelism 3 --update-monitor 2s --args 'nosuch' web
    becomes $'1\n1\n1' each 'echo $VERSION'
}
test_scaling() {
    does docker service create --name web --replicas 3 --stop-grace-period 0s --no-resolve-image busybox sleep 1000
    does docker service scale web=1
    becomes 'web 1/1' replicas
    does docker service scale web=3
    becomes 'web 3/3' replicas
}
test_a_replica_that_dies_comes_again() {
    does docker service create --name web --replicas 3 --restart-delay 0s --no-resolve-image busybox sleep 1000
    does docker kill "$(docker ps -q | head -n 1)"
    becomes 'web 3/3' replicas
}
test_secrets_and_configs() {
    does sh -c 'echo hidden | docker secret create word -; echo shown | docker config create conf -'
    does docker service create --name web --replicas 3 --secret word --config conf --no-resolve-image busybox sleep 1000
    becomes $'hidden\nshown\nhidden\nshown\nhidden\nshown' each 'cat /run/secrets/word /conf'
    does docker service logs web
    clear
    does docker secret rm word
    does docker config rm conf
}
