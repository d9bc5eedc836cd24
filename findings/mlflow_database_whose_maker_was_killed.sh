#!/usr/bin/env bash
# MLflow 3.17.2 makes the tables of a new SQLite database in some sixty migrations, in the file itself, and commits each
# statement by itself. A process that is killed in those one or two seconds leaves a file that no later MLflow opens: the
# next one begins the migrations again and stops at a table of the first try. The data that the user loses are none, but
# every run that is to be written there fails until somebody removes the file.
#
# Here the process ends itself (SIGKILL) after one of those statements. This fails when MLflow goes on afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2
cd "$folder"
cat > killed.py <<'CODE'
import os
import signal

import mlflow
import sqlalchemy.engine
import sqlalchemy.event


@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "after_cursor_execute")
def look(connection, cursor, statement, *_):
    if "CREATE TABLE _alembic_tmp_experiments" in statement:
        os.kill(os.getpid(), signal.SIGKILL)


mlflow.MlflowClient("sqlite:///mlflow.db").search_experiments()
CODE
cat > later.py <<'CODE'
import mlflow

try:
    print(len(mlflow.MlflowClient("sqlite:///mlflow.db").search_experiments()), "experiments")
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0])
CODE
ended=0
"$folder/environment/bin/python" killed.py > told 2>&1 || ended=$?
[ "$ended" = 137 ]
for try in 1 2; do
  "$folder/environment/bin/python" later.py > later 2> told
  echo "MLflow 3.17.2, try $try on the file of a killed process: $(cat later)"
  grep -q "OperationalError.*table _alembic_tmp_experiments already exists" later
done
rm mlflow.db
"$folder/environment/bin/python" later.py > later 2> told
echo "on a new file: $(cat later)"
[ "$(cat later)" = "1 experiments" ]
