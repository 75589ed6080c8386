"""What Redis forgets of a worker's own claims is noticed, and counted by the worker."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from penstock.ledger.given import SILENT_SECONDS_MAX, Given
from support.books import Books, claimed, files, settled

A, B, C, D, E, F, G = files(7)


async def _after_loss(books: Books) -> int:
    return int((await books.worker().reads.counters()).get("files_after_loss", 0))


async def test_files_of_forgotten_claims_are_counted_where_others_have_made_more(
    books: Books,
) -> None:
    """Redis then knows of as many claims as before, and of these files too."""
    worker, other = books.worker(), books.worker("other")
    kept = await claimed(worker, [A, B])
    await worker.commit(kept, settled(kept.names))
    snapshot = await books.snapshot()
    lost = await claimed(worker, [C, D])
    await worker.commit(lost, settled(lost.names))
    await books.restore(snapshot)
    for names in ([C], [D, E], [F]):
        await claimed(other, names)
    answer = await worker.claim([G], 500)
    assert answer.claim is not None
    assert (answer.claim.names, answer.losses, answer.files_forgotten) == ((G,), 1, 2)
    assert await _after_loss(books) == 2
    again = await worker.claim((), 500)
    assert (again.epoch, again.losses, again.files_forgotten) == (answer.epoch, 1, 0)
    assert await _after_loss(books) == 2


async def test_a_forgotten_takeover_counts_like_a_claim(books: Books) -> None:
    """Its first owner may have sent nothing: then nobody else counts what we sent."""
    worker = books.worker()
    first = await claimed(books.worker("other"), [A, B, C])
    await books.worker("other").release(first, tried=False)
    snapshot = await books.snapshot()
    assert (await claimed(worker, ())).names == (A, B, C)
    assert (await worker.claim((), 500)).losses == 0
    await books.restore(snapshot)
    assert (await worker.claim((), 500)).files_forgotten == 3


async def test_a_worker_that_was_forgotten_itself_notices(books: Books) -> None:
    """It began to work after the snapshot."""
    await claimed(books.worker("other"), [D])
    snapshot = await books.snapshot()
    worker = books.worker()
    await claimed(worker, [A])
    await books.restore(snapshot)
    await claimed(books.worker("other"), [B])
    assert (await worker.claim([C], 500)).losses == 1
    assert await _after_loss(books) == 1


async def test_a_silent_worker_is_removed_with_its_number(books: Books) -> None:
    """It begins again at one, and takes that for no loss."""
    seconds = 0.0
    worker = books.worker(monotonic=lambda: seconds)
    for name in (A, B):
        await claimed(worker, [name])
    await books.pass_seconds(700)
    assert await books.worker().upkeep.prune() == 1
    assert "claims_given" not in await books.everything()
    seconds = 700.0
    assert (await worker.claim([C], 500)).losses == 0


def test_one_lane_counts_a_loss_that_several_see() -> None:
    """Calls that were on their way meanwhile tell of the same loss."""
    mine = Given()
    for number in (1, 2, 3):
        mine.add(number, 10)
    first, second = mine.known(), mine.known()
    assert mine.is_forgotten(1, first)
    assert not mine.is_forgotten(2, second)
    assert (mine.losses, mine.files_forgotten) == (1, 20)


def test_two_claims_of_one_number_mean_two_primaries() -> None:
    """One of them is dropped sooner or later: that has at most as many files as the larger."""
    mine = Given()
    mine.add(1, 10)
    mine.add(2, 10)
    mine.add(2, 30)
    assert mine.files_forgotten == 30


def test_after_a_long_silence_nothing_is_known() -> None:
    """Redis may have removed the worker, and counts from one."""
    seconds = 0.0
    mine = Given(lambda: seconds)
    mine.add(7, 10)
    seconds = SILENT_SECONDS_MAX + 1
    assert mine.known()[0] == 0


def test_it_knows_of_which_claims_it_lost_count() -> None:
    """Only so many are kept."""
    mine = Given()
    for number in range(1, 10_006):
        mine.add(number, 1)
    assert (mine.are_all_counted(4), mine.are_all_counted(5)) == (False, True)


@dataclass
class Fork:
    """Two servers that both answer as primary, and a worker with lanes on either."""

    mine: Given = field(default_factory=Given)
    last: list[int] = field(default_factory=lambda: [3, 3])
    dead: int = 0
    on_its_way: list[tuple[tuple[int, int], int, bool]] = field(
        default_factory=list[tuple[tuple[int, int], int, bool]]
    )

    def ask(self, branch: int, *, gets_one: bool) -> None:
        """Let a lane ask one of the servers; the answer is on its way."""
        self.on_its_way.append((self.mine.known(), self.last[branch], gets_one))
        self.last[branch] += gets_one
        self.dead += gets_one and branch == 0

    def answer(self, at: int) -> None:
        """Let one of the answers arrive."""
        if self.on_its_way:
            known, said, gets_one = self.on_its_way.pop(at % len(self.on_its_way))
            self.mine.is_forgotten(said, known)
            if gets_one:
                self.mine.add(said + 1, 1)


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "answer"]), st.integers(0, 7), st.booleans()), max_size=60
)


@given(STEPS)
def test_no_claim_of_the_primary_that_is_dropped_goes_uncounted(
    steps: list[tuple[str, int, bool]],
) -> None:
    """However its lanes are spread over both, and in whatever order answers come."""
    fork = Fork()
    for number in (1, 2, 3):
        fork.mine.add(number, 1)
    for kind, which, gets_one in steps:
        if kind == "ask":
            fork.ask(which % 2, gets_one=gets_one)
        else:
            fork.answer(which)
    while fork.on_its_way:
        fork.answer(0)
    fork.ask(1, gets_one=False)
    fork.answer(0)
    assert fork.mine.files_forgotten >= fork.dead
