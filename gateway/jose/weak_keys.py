"""Public keys that look like any other and yet protect nothing. Checked once, when a key set is read."""

SMALL_PRIMES = tuple(n for n in range(2, 752) if all(n % divisor for divisor in range(2, int(n**0.5) + 1)))

# The moduli of CVE-2017-15361 (ROCA, Nemec et al., CCS 2017) are powers of 65537 modulo each of these primes. An
# honest modulus passes for one of them with a probability far below 2**-27.
_ROCA_RESIDUES = {
    prime: frozenset(pow(65537, exponent, prime) for exponent in range(prime))
    for prime in (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
}

_ED25519_PRIME = 2**255 - 19
# The y coordinates of the eight points whose order divides the cofactor (RFC 8032 §5.1.4): signatures under them can
# be made without a private key.
_SMALL_ORDER_Y = frozenset({
    0,
    1,
    _ED25519_PRIME - 1,
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927,
})  # fmt: skip


def small_factor(modulus: int) -> int | None:
    """The least prime below 752 that divides an RSA modulus (CA/Browser Forum Baseline Requirements §6.1.6)."""
    return next((prime for prime in SMALL_PRIMES if modulus % prime == 0), None)


def is_roca_modulus(modulus: int) -> bool:
    """Whether an RSA modulus has the fingerprint of the generator that made factorable keys."""
    return all(modulus % prime in residues for prime, residues in _ROCA_RESIDUES.items())


def is_small_order_point(encoded: bytes) -> bool:
    """Whether the 32 bytes of an Ed25519 public key stand for a point of small order, in any spelling of it."""
    y = int.from_bytes(encoded, "little") % 2**255  # the highest bit is the sign of x
    return y % _ED25519_PRIME in _SMALL_ORDER_Y
