#!/bin/bash
# An MLflow server for a cluster: SQLite or Postgres behind it, artifacts through it, a password before it.
#
#   python3.11 -m venv ~/mlflow-env && ~/mlflow-env/bin/pip install 'mlflow[auth]==3.17.2' psycopg2-binary
#   PATH=~/mlflow-env/bin:$PATH cluster/mlflow/server.sh        # http://127.0.0.1:5000; or mlflow.service beside this
#
# The first start makes the user `admin`, with a password that it writes to FOLDER/password. Whoever trains says
#
#   export MLFLOW_TRACKING_URI=http://SERVER:5000 MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=…
#
# and `streamtrain submit` takes these variables along. Settings, as variables:
#
#   MLFLOW_FOLDER=~/mlflow                      password, SQLite files, artifacts
#   MLFLOW_DATABASE=sqlite:///FOLDER/mlflow.db  or postgresql://USER:PASSWORD@HOST/mlflow
#   MLFLOW_ARTIFACTS=FOLDER/artifacts           or s3://BUCKET/mlflow, gs://BUCKET/mlflow
#   MLFLOW_HOST=127.0.0.1 MLFLOW_PORT=5000      0.0.0.0 lets other machines in: passwords then cross the network
#                                               unencrypted, so put a proxy with TLS before it, or an SSH tunnel
#   MLFLOW_SERVER_ALLOWED_HOSTS=SERVER:5000     names under which it may be asked, where it is not localhost
#
# Tested with SQLite; with Postgres and buckets not run.
set -euo pipefail

folder=${MLFLOW_FOLDER:-$HOME/mlflow}
umask 077
mkdir -p "$folder/artifacts"
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
[ -s "$folder/password" ] || secret > "$folder/password"
[ -s "$folder/session_key" ] || secret > "$folder/session_key"

cat > "$folder/auth.ini" << END
[mlflow]
default_permission = READ
database_uri = sqlite:///$folder/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
END
MLFLOW_AUTH_CONFIG_PATH="$folder/auth.ini"
MLFLOW_AUTH_ADMIN_PASSWORD=$(cat "$folder/password")
MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "$folder/session_key")
export MLFLOW_AUTH_CONFIG_PATH MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY

echo "MLflow: http://${MLFLOW_HOST:-127.0.0.1}:${MLFLOW_PORT:-5000}, user admin, password in $folder/password" >&2
exec mlflow server --app-name basic-auth --workers "${MLFLOW_WORKERS:-2}" \
  --host "${MLFLOW_HOST:-127.0.0.1}" --port "${MLFLOW_PORT:-5000}" \
  --backend-store-uri "${MLFLOW_DATABASE:-sqlite:///$folder/mlflow.db}" \
  --artifacts-destination "${MLFLOW_ARTIFACTS:-$folder/artifacts}"
