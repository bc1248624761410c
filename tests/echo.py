"""The smallest thing that can be called in an engine's process."""

import tempfile
import time


class Echo:
    def say(self, what):
        return what

    def count(self, on_finished):
        on_finished(1)
        return "counted"

    def hang(self):
        time.sleep(600)

    def leave_a_file(self):
        return tempfile.mkstemp()[1]
