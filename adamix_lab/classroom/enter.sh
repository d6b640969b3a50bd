# A system of what is named, read-only, around an empty home; then every privilege is given up for good.
# Called by sandbox.py, within namespaces of its own:  enter.sh --user|... ROOT HOME SIZE PATH... -- COMMAND...
set -e
PATH=$PATH:/usr/sbin:/sbin
# in a user namespace of its own: none below this one, in which there would be privileges again
[ "$1" != --user ] || echo 0 > /proc/sys/user/max_user_namespaces
root=$2 home=$3 size=$4 # HOME lies where no Python does: not in /home
shift 4
mount -t tmpfs -o mode=755,size=1m none "$root"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root${1%/*}"; : > "$root$1"; fi
  mount --rbind "$1" "$root$1"
  shift
done
shift
mkdir -p "$root/proc" "$root$home" "$root/dev/shm" "$root/.old"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
while read -r _ _ _ _ place flags _; do # each mount keeps its flags, which a user may not take away, and loses "rw"
  case $place in *\\*) place=$(printf %b "$place");; esac
  case $place in "$root"/*) mount -o "remount,bind,ro${flags#r?}" none "$place";; esac
done < /proc/self/mountinfo
mount -t tmpfs -o "nosuid,nodev,mode=755,size=$size" none "$root$home"
mount -t tmpfs -o nosuid,nodev,size=64m none "$root/dev/shm"
cd "$root"
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
mount -o remount,bind,ro none /
cd "$home"
exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs -- "$@"
