#!/usr/bin/env bash
# Says of a job, by its number: running, success or failed.
case "$(squeue --noheader --states=all --format=%T --jobs="$1" 2>/dev/null | head -n 1)" in
COMPLETED) echo success ;;
PENDING | CONFIGURING | RUNNING | COMPLETING | SUSPENDED | REQUEUED | RESIZING | STAGE_OUT | SIGNALING) echo running ;;
*) echo failed ;;
esac
