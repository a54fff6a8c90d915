from errata.writer.publish import own_request_id


def test_a_repeated_act_of_the_writer_has_one_request_id() -> None:
    """Ids outlive the process: a writer that starts again appends nothing twice."""
    assert own_request_id("lane|lanes/main|c") == "2380f46b-fef6-527e-a12a-16721f90d5dc"
    assert own_request_id("lane|lanes/main|d") != own_request_id("lane|lanes/main|c")
