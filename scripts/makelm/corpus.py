"""placeholder"""


def source_files(settings):
    return {}
