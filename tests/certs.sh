#!/usr/bin/env bash
# Tests certs/make-certs.sh: the certificate chain verifies, the requested names are in the
# certificate, and only the owner can read the key.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bash certs/make-certs.sh "$work/out" prewarmer.infra.svc 127.0.0.1 > /dev/null
openssl verify -CAfile "$work/out/ca.crt" -purpose sslserver "$work/out/tls.crt" > /dev/null
text=$(openssl x509 -in "$work/out/tls.crt" -noout -ext subjectAltName)
grep -q 'DNS:prewarmer.infra.svc' <<< "$text"
grep -q 'IP Address:127.0.0.1' <<< "$text"
[ "$(stat -c %a "$work/out/tls.key")" = 600 ]
if bash certs/make-certs.sh "$work/out" 2> /dev/null; then echo "a call without names was accepted"; exit 1; fi
echo "certs: verified"
