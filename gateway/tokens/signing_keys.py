"""The keys in force: which one signs, and which ones are published."""

from collections.abc import Iterable
from typing import Self

from gateway.oauth.errors import Refusal
from gateway.tokens.signing_key import Algorithm, SigningKey
from gateway.tokens.stores.base import KeyStore, KeyStoreError

_ATTEMPTS = 16


class SigningKeys:
    """Every key of the store. The newest one of the wanted algorithm signs; all are published."""

    def __init__(self, keys: Iterable[SigningKey], algorithm: Algorithm) -> None:
        """``algorithm`` is the one that signs where nothing else is asked for."""
        # The kid settles two keys of one second, so that every replica settles it alike.
        self._published = tuple(sorted(keys, key=lambda key: (-key.created_at, key.kid)))
        self._algorithm = algorithm
        self._newest = {key.algorithm: key for key in reversed(self._published)}
        self._by_header = {key.header_segment: key for key in self._published}

    @classmethod
    def open(cls, store: KeyStore, algorithm: Algorithm, now: float) -> Self:
        """The keys of a store; where it has none of the algorithm, one is made and kept. Raises ``KeyStoreError``."""
        for _ in range(_ATTEMPTS):
            keys = store.load()
            if any(key.algorithm == algorithm for key in keys):
                return cls(keys, algorithm)
            store.save(SigningKey.generate(algorithm, now), {key.kid for key in keys})
        raise KeyStoreError("the key store does not keep the key that was put in")

    def current(self, algorithm: Algorithm | None = None) -> SigningKey:
        """The key that signs now. Raises ``Refusal`` where there is none of the algorithm."""
        key = self._newest.get(algorithm or self._algorithm)
        if key is None:
            raise Refusal("signing_unavailable", internal=f"no {algorithm or self._algorithm} key")
        return key

    def published(self) -> tuple[SigningKey, ...]:
        """All keys, newest first: the same object until a key comes or goes."""
        return self._published

    def signer_of(self, header_segment: str) -> SigningKey | None:
        """The published key whose tokens start with this header segment."""
        return self._by_header.get(header_segment)

    def age_seconds(self, now: float) -> float:
        """How old the key is that signs now. Raises ``Refusal`` as ``current`` does."""
        return max(0.0, now - self.current().created_at)
