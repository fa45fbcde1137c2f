"""Looks at a pool's repository: which commit, which recipe, and what that is named by."""

from __future__ import annotations

import hashlib

from temporalio import activity

from activities.boundary import beating, boundary, check_cancelled
from activities.context import HostContext
from activities.engine import Json
from activities.mirrors import Mirror
from activities.registries import Registries, host_ca_bundle
from greenroom.core.config import PoolConfig
from greenroom.core.errors import PreparationError
from greenroom.core.fingerprint import (
    DependencyInputs,
    dependency_fingerprint,
    snapshot_fingerprint,
)
from greenroom.core.orders import LookInput
from greenroom.core.recipe import Recipe, choose, dependency_files
from greenroom.core.records import Source


class Repos:
    """Activities on repositories."""

    def __init__(self, ctx: HostContext) -> None:
        self._ctx = ctx
        self._registries = Registries(ctx.settings, ctx.engine)

    @activity.defn(name="look", no_thread_cancel_exception=True)
    @boundary
    def look(self, asked: LookInput) -> Source:
        """Fetch the repository and say what its snapshot would be.

        Raises PreparationError (step ``source``) for a repository, ref or image that is not there.
        """
        with beating():
            return look(self._ctx, self._registries, asked)


def look(ctx: HostContext, registries: Registries, asked: LookInput) -> Source:
    """What ``Repos.look`` does, for those who are no worker."""
    config = asked.config
    image = find_image(ctx, config)
    mirror = Mirror(ctx.paths, config.repo, check_cancelled)
    with mirror.locked():
        mirror.fetch()
        resolved = mirror.resolve(config.ref)
        mirror.pin(asked.pool, resolved.commit)
        files = mirror.files(resolved.commit)
    recipe = _recipe(config, choose(files))
    deciding = dependency_files(files, config.lockfiles, config.inputs)
    _check_lockfiles(config, files)
    blobs = {name: files[name] for name in deciding}
    inputs = DependencyInputs(
        files=blobs,
        base_image_id=str(image["Id"]),
        architecture=str(image["Architecture"]),
        user=str(image["Config"].get("User") or ""),
        environment={**registries.environment(config), **config.env},
        ca_bundle=hashlib.sha256(host_ca_bundle()).hexdigest() if config.trust_host_ca else "",
        system=config.system,
        install=recipe.install,
    )
    dependencies = dependency_fingerprint(inputs)
    return Source(
        commit=resolved.commit,
        ref=resolved.ref,
        mirror=mirror.key,
        dependencies=dependencies,
        fingerprint=snapshot_fingerprint(
            dependencies, resolved.commit, config.build, config.verify
        ),
        install=recipe.install,
        sync=recipe.sync,
        dependency_files=blobs,
        why=recipe.why,
    )


def find_image(ctx: HostContext, config: PoolConfig) -> Json:
    """The pool's base image, pulled when it is missing. Raises PreparationError."""
    image = ctx.engine.inspect_image(config.image)
    if image is None:
        ctx.engine.pull(config.image, check_cancelled)
        image = ctx.engine.inspect_image(config.image)
    if image is None:
        raise PreparationError(
            f"{config.image!r} cannot name an image; write name or name:tag", step="source"
        )
    return image


def _recipe(config: PoolConfig, chosen: Recipe) -> Recipe:
    if config.install is None:
        return Recipe(chosen.install, config.sync or chosen.sync, chosen.why)
    return Recipe(config.install, config.sync or (), "the pool file's own install lines")


def _check_lockfiles(config: PoolConfig, files: dict[str, str]) -> None:
    for name in config.lockfiles or ():
        if not any(sign in name for sign in "*?") and name.removeprefix("./") not in files:
            raise PreparationError(
                f"the pool's lockfiles name {name!r}, which the repository does not have",
                step="source",
            )
