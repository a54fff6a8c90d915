#!/usr/bin/env bash
# Imports all corrections of a folder, at night and slowly. From cron:
#
#   15 2 * * *  ERRATA_TARGET=gateway.example:7700 /opt/errata/nightly_import.sh /srv/corrections
#
# Rows that the log has already are not sent again, so a file can stay, grow, or be imported anew after a crash.
# Each file gets a report beside it; the exit status is 1 if the model does not answer with every row.
set -uo pipefail
folder=${1:?name the folder of the corrections}
status=0
shopt -s nullglob
for file in "$folder"/*.csv; do
  errata import "$file" --author nightly --lane "${LANE:-lanes/main}" --rate "${RATE:-5}" \
    --in-flight 16 --on-conflict last --report "${file%.csv}.report.jsonl" || status=1
done
exit "$status"
