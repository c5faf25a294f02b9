"""What a Hub remembers: repositories whose branches point to commits, each of which maps paths to contents."""

import hashlib
import threading
from dataclasses import dataclass, field


class Conflict(Exception):
    """A commit that does not fit the repository; nothing of it was kept."""


@dataclass(frozen=True)
class Blob:
    """One content. Large files are known by the SHA-256 of their content, the others by git's hash."""

    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        if self.is_lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    files: dict[str, Blob]
    message: str
    parent: str | None

    @property
    def oid(self) -> str:
        content = [self.message, str(self.parent), *(f"{path} {self.files[path].oid}" for path in sorted(self.files))]
        return hashlib.sha1("\n".join(content).encode()).hexdigest()


@dataclass
class Repository:
    """Branches, and the commits that they went through."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add(
            "main", Commit({".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}, "initial commit", None)
        )

    def add(self, branch: str, commit: Commit) -> str:
        """Put `commit` on `branch`: the one step by which a repository changes."""
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit.oid

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or an id names."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def contents(self, revision: str = "main") -> dict[str, bytes]:
        """Path -> content of everything that was pushed."""
        files = self.commits[self.resolve(revision)].files
        return {path: blob.content for path, blob in files.items() if path != ".gitattributes"}

    def history(self, revision: str = "main") -> list[str]:
        """Messages of the commits, newest first."""
        messages, oid = [], self.resolve(revision)
        while oid is not None:
            messages.append(self.commits[oid].message)
            oid = self.commits[oid].parent
        return messages


class HubStore:
    """All repositories and large files of a Hub; every method is one indivisible step."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository | None:
        """The repository, if there is one."""
        return self.repositories.get((repo_type, repo_id))

    def create(self, repo_id: str, repo_type: str, *, private: bool) -> bool:
        """Create a repository; False if it was there."""
        with self.lock:
            if (repo_type, repo_id) in self.repositories:
                return False
            self.repositories[repo_type, repo_id] = Repository(private)
            return True

    def keep_large_file(self, oid: str, content: bytes) -> None:
        """Keep a large file under its SHA-256."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise Conflict("the content does not have the announced SHA-256")
        self.large_files[oid] = content

    def commit(self, repository: Repository, branch: str, lines: list[dict]) -> tuple[str, str]:
        """Apply the lines of a commit request, all or none; a pull request gets a branch of its own.

        Returns:
            The branch and the id of the commit.
        """
        header = lines[0]["value"]
        with self.lock:
            head = repository.branches[branch]
            if header.get("parentCommit", head) != head:
                raise Conflict("the branch is no longer at `parentCommit`")
            files = dict(repository.commits[head].files)
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            if header.get("pullRequest"):
                branch = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in repository.branches)}"
            return branch, repository.add(branch, Commit(files, header["summary"], head))

    def _apply(self, files: dict[str, Blob], operation: str, value: dict) -> None:
        path = value["path"]
        if operation == "file":
            files[path] = Blob(value["content"], False)
        elif operation == "lfsFile":
            if value["oid"] not in self.large_files:
                raise Conflict(f"the content of {path} was never uploaded")
            files[path] = Blob(self.large_files[value["oid"]], True)
        elif operation == "deletedFile":
            if files.pop(path, None) is None:
                raise Conflict(f"there is no {path} to delete")
        else:
            raise Conflict(f"unknown operation {operation}")
