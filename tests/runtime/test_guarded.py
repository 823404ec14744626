from lorakit.runtime.guarded import Guarded


def test_a_hang_a_crash_and_a_memory_hog_are_named_and_the_rest_goes_on():
    jobs = ["fine", "hang", "fine", "crash", "grow", "fine", "fine"]
    with Guarded("tests.support.misbehaving", {}, 2, seconds=3) as workers:
        answers = dict(workers.answers((i, {"do": job}) for i, job in enumerate(jobs)))
    assert len(answers) == len(jobs)
    assert all(answers[i] == {"did": "fine", "pid": answers[i]["pid"]} for i in (0, 2, 5, 6))
    assert (
        "3 seconds" in answers[1]["reason"] and "SIGSEGV" in answers[3]["reason"] and "crashed" in answers[4]["reason"]
    )


def test_no_more_is_in_flight_than_there_are_processes():
    given = 0

    def jobs():
        nonlocal given
        for given in range(1, 41):
            yield given, {"do": "fine"}

    with Guarded("tests.support.misbehaving", {}, 2, seconds=20) as workers:
        for answered, _ in enumerate(workers.answers(jobs())):
            assert given - answered <= 3
    assert given == 40
