"""Several drives that take turns at one mount point."""

from __future__ import annotations

from tests.drives import Drive
from tests.retrieval.indexing.library import write


class Slot:
    """A folder for several drives. One is mounted at a time."""

    def __init__(self, stack, folder, mount_point, *names):
        self.mount_point = mount_point
        self._in = None
        self.drives = {
            name: stack.enter_context(Drive(folder / f"store-{name}", mount_point, number))
            for number, name in enumerate(names)
        }

    def put(self, name):
        if self._in is not None:
            self.drives[self._in].detach()
        self._in = name
        if name is not None:
            self.drives[name].attach()

    def store(self, name):
        return self.drives[name].store


def fill(slot, name, *files):
    write(slot.store(name), *files, of=name)


def kept(plan):
    return [(item.folder.rpartition(b"/")[2].decode(), item.images, item.why) for item in plan.kept_in]
