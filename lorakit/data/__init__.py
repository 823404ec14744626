"""From folders of pictures to what training reads."""
