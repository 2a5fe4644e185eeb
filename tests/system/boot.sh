#!/usr/bin/env bash
# Boots the machine's own systemd as PID 1 of namespaces of its own, over a copy of / that is gone when it ends.
#
#     unshare --mount boot.sh REPOSITORY SOCKETS [SYSTEM]
#
# REPOSITORY's notifierd is installed in that copy as docs/operations.md says, and upgraded, and the folder SOCKETS is
# there as /srv/sockets. With SYSTEM, a folder with another Debian, that is copied instead of /, and nothing installed.
# "init N" on stdout is systemd's process id as the caller sees it. Ends when systemd ends; nothing stays mounted.
set -euo pipefail

if [[ $1 == --inside ]]; then
  # PID 1 of the new namespaces; /proc is still the caller's, and tells who we are there.
  root=$2
  read -r pid _ </proc/self/stat
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  # The kernel's settings are the whole machine's: nothing in here may write them.
  for path in sys sysrq-trigger; do
    [[ -e $root/proc/$path ]] || continue # not every kernel has it
    mount --bind "$root/proc/$path" "$root/proc/$path"
    mount -o remount,bind,ro "$root/proc/$path"
  done
  cd "$root"
  mkdir -p run/old
  pivot_root . run/old
  umount -l run/old
  mount -t tmpfs -o mode=0755 run /run
  mount --make-rshared /
  echo "init $pid"
  exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio \
    env -i container=notifierd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=booted.target </dev/null >/dev/null 2>&1
fi

repository=$1 sockets=$2 system=${3:-/}
mount --make-rprivate /
there=$(mktemp -d)
trap 'umount -l "$there" && rmdir "$there"' EXIT
mount -t tmpfs -o mode=0755 notifierd-test "$there"
root=$there/root
mkdir "$there"/{upper,work,root,cgroup}
mount -t overlay -o "lowerdir=$system,upperdir=$there/upper,workdir=$there/work" notifierd-test "$root"

mount -t tmpfs -o mode=0755 dev "$root/dev"
mkdir "$root"/dev/{pts,shm}
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
  IFS=: read -r name major minor <<<"$device"
  mknod -m 0666 "$root/dev/$name" c "$major" "$minor"
done
ln -s /proc/self/fd "$root/dev/fd"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmp "$root/tmp" # systemd empties it

# The machine's own services stay out: what is booted is systemd, its journal, and what a test starts.
: >"$root/etc/fstab"
cat >"$root/etc/systemd/system/booted.target" <<'TARGET'
[Unit]
Description=What the tests need
Requires=sysinit.target sockets.target
# The last: while a unit names it, systemd keeps in mind how it ended.
After=sysinit.target sockets.target notifierd.service
AllowIsolate=yes
TARGET

cp -L --remove-destination /etc/resolv.conf /etc/hosts "$root/etc/" # in a container they are mounts, and not in the copy

# As the manual has it, on a machine that has seen no notifierd yet.
rm -rf "$root"/{opt,etc}/notifierd "$root"/usr/local/bin/notifierd "$root"/etc/credstore* "$root"/etc/systemd/system/notifierd.service*
mkdir -p "$root"/srv/{notifierd,sockets}
mount --bind "$sockets" "$root/srv/sockets"
mount --bind "$repository" "$root/srv/notifierd"
mount -o remount,bind,ro "$root/srv/notifierd"
[[ $system != / ]] || chroot "$root" bash -euc '
  cd /srv/notifierd
  PATH=/usr/local/bin:/usr/bin:/bin PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1
  export PATH PIP_QUIET PIP_DISABLE_PIP_VERSION_CHECK
  bash -euxc "$(/usr/bin/python3 tests/support/manual.py docs/operations.md "run by tests/system/boot.sh")"
' >&2

# systemd gets the cgroups below one of our own.
mount -t cgroup2 cgroup2 "$there/cgroup"
cgroup=$there/cgroup/notifierd-test-$$
mkdir "$cgroup"
trap 'find "$cgroup" -depth -type d -exec rmdir {} \; && umount -l "$there" && rmdir "$there"' EXIT
(
  echo 0 >"$cgroup/cgroup.procs"
  exec setpriv --pdeathsig KILL unshare --mount --propagation private --uts --ipc --net --pid --cgroup \
    --fork --kill-child "$0" --inside "$root"
) || true # it ends by being killed
