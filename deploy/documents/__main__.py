"""`python -m deploy.documents`: write the generated files and the generated parts of the pages."""

import os

from deploy.documents.pages import FILES, PARTS, pages, with_parts
from worker.config.settings import PREFIX

if __name__ == "__main__":
    # The pages show the defaults, not this environment's settings.
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    for path, text in FILES.items():
        path.write_text(text())
    for path in pages():
        path.write_text(with_parts(path.read_text(), PARTS))
