"""Brings a work tree to one commit of the gate's mirror, inside a container, and proves it.

One script, because each command in a container costs 50 ms; what varies comes as positional
parameters, never as text of the script.
"""

from __future__ import annotations

from dataclasses import dataclass

from activities.registries import without_credentials
from greenroom.core.config import PoolConfig
from greenroom.core.policy import GIT_NAME
from greenroom.core.records import Source
from greenroom.core.slotfile import GitAccess

SCRIPT = r"""
set -eu
mirror=$1 real=$2 commit=$3 branch=$4
export GIT_TERMINAL_PROMPT=0 GIT_LFS_SKIP_SMUDGE=1
quiet() { git -c core.hooksPath=/dev/null -c advice.detachedHead=false -c gc.auto=0 "$@"; }
fail() { echo "greenroom: $1" >&2; exit 65; }
command -v git >/dev/null || { echo "greenroom: the image has no git" >&2; exit 66; }
[ -w . ] || fail "the work folder $(pwd) is not writable for $(id -un)"
[ -e .git ] || quiet init --quiet --template= .
if ! quiet cat-file -e "$commit^{commit}" 2>/dev/null; then
    quiet fetch --quiet --force "$mirror" "$commit"
fi
if [ "$(git config --local remote.origin.url || true)" != "$real" ]; then
    git config --local remote.origin.url "$real"
    git config --local "url.$mirror.insteadOf" "$real"
    git config --local "url.$real.pushInsteadOf" "$real"
    if [ -n "$branch" ]; then
        git config --local remote.origin.fetch "+refs/heads/$branch:refs/remotes/origin/$branch"
    fi
fi
if [ -n "$branch" ]; then
    remote="refs/remotes/origin/$branch"
    [ "$(git rev-parse -q --verify "$remote" || true)" = "$commit" ] \
        || git update-ref "$remote" "$commit"
    if [ "$(git symbolic-ref -q HEAD || true)" != "refs/heads/$branch" ] \
        || [ "$(git rev-parse -q --verify HEAD || true)" != "$commit" ]; then
        quiet checkout --quiet --force -B "$branch" "$commit"
        git config --local "branch.$branch.remote" origin
        git config --local "branch.$branch.merge" "refs/heads/$branch"
    fi
elif [ "$(git rev-parse -q --verify HEAD || true)" != "$commit" ]; then
    quiet checkout --quiet --force --detach "$commit"
fi
state=$(quiet status --porcelain)
if [ -n "$state" ]; then
    quiet reset --quiet --hard "$commit"
    state=$(quiet status --porcelain)
fi
[ "$(git rev-parse HEAD)" = "$commit" ] || fail "HEAD is not $commit"
[ -z "$state" ] || fail "the work tree does not agree with $commit:
$state"
"""
"""Exits 0 with HEAD, index and work tree at the commit, else says why on stderr.

Nothing is fetched that is there. What cannot be brought into agreement (untracked files that are
not ignored) is a failure.
"""

EXCLUDE_SCRIPT = r"""
set -eu
[ -e .git ] || exit 0
git ls-files -z --others --exclude-standard --directory \
    | tr '\0\n' '\n?' | sed -e 's/[][*?\\! #]/\\&/g' -e 's|^|/|' > .git/greenroom-exclude
if [ -s .git/greenroom-exclude ]; then
    mkdir -p .git/info
    { echo "# what the pool's preparation left in the work tree"; cat .git/greenroom-exclude; } \
        >> .git/info/exclude
fi
rm -f .git/greenroom-exclude
git -c gc.auto=0 status --porcelain --untracked-files=no >/dev/null
"""
"""Takes what preparing left in the work tree out of what counts as somebody's work."""


@dataclass(frozen=True)
class Checkout:
    """Where a work tree comes from and what it must be."""

    mirror: str
    real: str
    commit: str
    branch: str

    def command(self) -> tuple[str, ...]:
        """The script with its parameters."""
        parameters = (self.mirror, self.real, self.commit, self.branch)
        return ("/bin/sh", "-c", SCRIPT, "greenroom", *parameters)


def checkout_of(config: PoolConfig, source: Source) -> Checkout:
    """The work tree of a pool's source; ``branch`` is empty for a detached HEAD."""
    prefix = "refs/heads/"
    branch = source.ref.removeprefix(prefix) if source.ref.startswith(prefix) else ""
    return Checkout(
        mirror=f"http://{GIT_NAME}/{source.mirror}.git",
        real=without_credentials(config.repo),
        commit=source.commit,
        branch=branch,
    )


def git_access(pool: str, source: Source) -> GitAccess:
    """What the gate's git server shows of the mirror: the pool's own refs and the tags."""
    refs = [f"refs/greenroom/{pool}", "refs/tags"]
    if source.ref.startswith("refs/"):
        refs.append(source.ref)
    return GitAccess(key=source.mirror, refs=tuple(refs))
