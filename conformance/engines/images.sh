# What the tests of images share: of those that an engine and mydocker make, and how they are compared.
# Sourced by the engines that have such tests.

# ours: mydocker has the same base image as the engine.
ours() {
    [ -x "$mydocker" ] || skip 'there is no mydocker beside this runtime'
    does "$mydocker" load -q -i "$work/busybox.tar"
}
# image_id PROGRAM IMAGE
image_id() { "$1" image inspect -f '{{.Id}}' "$2" | sed 's/^sha256://'; }
# settings PROGRAM IMAGE: what docker, podman or mydocker says of its configuration.
settings() {
    "$1" image inspect "$2" | jq -S '.[0].Config | {Env, Cmd, Entrypoint, WorkingDir, User, Labels, ExposedPorts,
        Volumes, Healthcheck, StopSignal, Shell, OnBuild} | with_entries(select(.value | length > 0))'
}
# files PROGRAM IMAGE: its tree, but for what engines make of their own in each container. Not its times,
# since what RUN makes is as old as the build.
files() {
    local tree=$TMPDIR/tree
    mkdir "$tree"
    "$1" create --name copied "$2" >/dev/null
    "$1" export copied | tar -x -p --numeric-owner -C "$tree"
    "$1" rm copied >/dev/null
    (
        cd "$tree"
        rm -rf .dockerenv dev proc sys etc/{hosts,hostname,resolv.conf,mtab}
        [ ! -d etc ] || rmdir --ignore-fail-on-non-empty etc
        find . -printf '%P %y %m %U:%G %n %l\n' | sort
        find . -type f -print0 | sort -z | xargs -0 sha256sum
    )
    rm -r "$tree"
}
# same WHAT PROGRAM IMAGE PROGRAM IMAGE: WHAT prints the same of both, and something.
same() {
    "$1" "$2" "$3" >"$TMPDIR/one"
    "$1" "$4" "$5" >"$TMPDIR/other"
    does test -s "$TMPDIR/one"
    does diff "$TMPDIR/one" "$TMPDIR/other"
    rm "$TMPDIR/one" "$TMPDIR/other"
}
# contexts: $TMPDIR/builds, what an engine and mydocker build.
contexts() {
    rm -rf "$TMPDIR/builds"
    cp -r "$here/builds" "$TMPDIR/"
    (
        cd "$TMPDIR/builds/files"
        mkdir -p data/old data/dir
        echo data >data/file
        echo old >data/old/file
        ln data/file data/dir/hard
        ln -s ../file data/dir/soft
        chown 3:4 data/file
        chmod 2751 data/dir
        tar -czf data.tar.gz -C data .
        chown -R 11:12 sub
        chmod 600 notes.txt
        ln -s nowhere link
    )
}
# registry: Debian's registry, with nothing in it, is at $registry on loopback. ends registry stops it.
registry() {
    [ -x /usr/bin/docker-registry ] || skip 'there is no docker-registry'
    registry=127.0.0.1:5000
    echo "{version: 0.1, storage: {inmemory: {}}, http: {addr: '$registry'}}" >"$work/registry.yml"
    daemon registry docker-registry serve "$work/registry.yml"
    comes busybox wget -qO /dev/null "http://$registry/v2/"
}
# layers NAME: of what kind the layers of the OCI image NAME are in the registry, bottom first.
layers() {
    busybox wget -qO- --header 'Accept: application/vnd.oci.image.manifest.v1+json' \
        "http://$registry/v2/$1/manifests/latest" | jq -r '.layers[].mediaType | ltrimstr("application/vnd.oci.image.layer.v1.")'
}
# are_same NAME ENGINE: mydocker and the engine have the same image of that name.
are_same() {
    local what
    for what in image_id settings files; do same $what "$2" "$1" "$mydocker" "$1"; done
}
# exchanges ENGINE [OPTION...]: what the engine pushes to a registry mydocker pulls, and the other way
# round: the same images. The options are those of the engine's push and pull.
exchanges() {
    local engine=$1 theirs ours back
    ours
    contexts
    registry
    theirs=$registry/theirs ours=$registry/ours back=$registry/back
    does "$engine" build -q -t "$theirs" "$TMPDIR/builds/site"
    does "$engine" push -q "${@:2}" "$theirs"
    does "$mydocker" pull -q "$theirs"
    are_same "$theirs" "$engine"

    # With layers that get smaller, and one that does not.
    does "$mydocker" build -q -t files "$TMPDIR/builds/files"
    mkdir "$TMPDIR/builds/noise"
    head -c 300000 /dev/urandom >"$TMPDIR/builds/noise/noise"
    printf 'FROM files\nCOPY noise /\n' >"$TMPDIR/builds/noise/Dockerfile"
    does "$mydocker" build -q -t "$ours" "$TMPDIR/builds/noise"
    does "$mydocker" push -q "$ours"
    out=$(layers ours)
    [ "$(sort -u <<<"$out")" = $'tar\ntar+gzip' ] && [ "${out##*$'\n'}" = tar ] || fail "the layers are: $out"
    does "$engine" pull -q "${@:2}" "$ours"
    are_same "$ours" "$engine"

    # And back again, as the engine has it.
    does "$engine" tag "$ours" "$back"
    does "$engine" push -q "${@:2}" "$back"
    does "$mydocker" rmi -f "$(image_id "$mydocker" "$ours")"
    does "$mydocker" pull -q "$back"
    are_same "$back" "$engine"
    does "$engine" rmi "$theirs" "$ours" "$back"
    rm -r "$TMPDIR/builds"
}
