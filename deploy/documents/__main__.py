"""`python -m deploy.documents`: write the files."""

from deploy.documents.pages import PAGES

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
