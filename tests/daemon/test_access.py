from __future__ import annotations

import grp
import os
import pwd
from itertools import product

import pytest

from transship.config import ServiceSettings
from transship.daemon.http.peer import Peer
from transship.daemon.web.access import Access, Right
from transship.errors import AccessDenied, UsageError

GROUP, ACTOR = 4711, 1001


def may(access: Access, right: Right, uid: int, gid: int = 100, groups: tuple[int, ...] = ()) -> bool:
    try:
        access.check(Peer(1, uid, gid, frozenset(groups)), right)
    except AccessDenied:
        return False
    return True


def test_who_is_refused_is_told_why() -> None:
    for right in Right:
        with pytest.raises(AccessDenied, match="user 5 ") as caught:
            Access(frozenset({0}), GROUP).check(Peer(1, 5, 100, frozenset()), right)
        assert caught.value.remedy


def test_reading_is_for_the_group_acting_for_those_named() -> None:
    access = Access(frozenset({0, ACTOR}), GROUP)
    who: dict[str, tuple[int, int, tuple[int, ...]]] = {
        "root": (0, 0, ()),
        "actor": (ACTOR, 100, ()),
        "member": (5, 100, (3, GROUP)),
        "member by its own group": (5, GROUP, ()),
        "stranger": (5, 100, (3, 0)),
    }
    allowed = {(name, right) for (name, peer), right in product(who.items(), Right) if may(access, right, *peer)}
    assert allowed == {
        ("root", Right.READ),
        ("root", Right.ACT),
        ("actor", Right.READ),
        ("actor", Right.ACT),
        ("member", Right.READ),
        ("member by its own group", Right.READ),
    }


def test_names_are_looked_up() -> None:
    user, group = pwd.getpwall()[-1], grp.getgrall()[-1]
    access = Access.of(ServiceSettings(users=(user.pw_name,), group=group.gr_name))
    assert access == Access(frozenset({0, os.geteuid(), user.pw_uid}), group.gr_gid)


def test_without_the_group_only_actors_may_read() -> None:
    access = Access.of(ServiceSettings(group="no-such-group"))
    assert not may(access, Right.READ, 12345, 12345)
    assert may(access, Right.READ, 0)


def test_a_user_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"service\.users: there is no user no-such-user"):
        Access.of(ServiceSettings(users=("no-such-user",)))
