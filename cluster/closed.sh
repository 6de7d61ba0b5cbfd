# For `. closed.sh` before `ray start`, on every node, and before a driver: token and TLS, or an error.
ulimit -n 65536 2>/dev/null
umask 077
export PATH="$HOME/codex_ray/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
export RAY_USE_TLS=1
export RAY_TLS_SERVER_CERT="$HOME/.ray/tls/node.pem"
export RAY_TLS_SERVER_KEY="$HOME/.ray/tls/node-key.pem"
export RAY_TLS_CA_CERT="$HOME/.ray/tls/ca.pem"
codex-ray cluster preflight
