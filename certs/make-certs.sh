#!/usr/bin/env bash
# Creates a CA and a serving certificate with openssl, as an alternative to the certificates that
# Prewarmer manages.
# usage: make-certs.sh OUTDIR NAME_OR_ADDRESS...
# Names are such as prewarmer-webhook.prewarmer.svc, or 127.0.0.1.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 OUTDIR NAME_OR_ADDRESS..." >&2; exit 2; }
command -v openssl > /dev/null || { echo "openssl is required, but is not on the PATH" >&2; exit 1; }
out=$1; shift
ca_days=3650 leaf_days=90
names=''
for name in "$@"; do
  case $name in
    *[!0-9.:a-fA-F]* | *[g-zG-Z]*) names+="${names:+,}DNS:$name" ;;
    *[.:]*) names+="${names:+,}IP:$name" ;;
    *) names+="${names:+,}DNS:$name" ;;
  esac
done
umask 077
mkdir -p "$out"
if [ ! -f "$out/ca.key" ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$ca_days" -subj "/CN=prewarmer CA" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$out/ca.key" -out "$out/ca.crt" 2> /dev/null
  echo "created a CA, valid for $ca_days days: $out/ca.crt"
else
  echo "using the existing CA: $out/ca.crt"
fi
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=prewarmer" \
  -keyout "$out/tls.key" -out "$out/tls.csr" 2> /dev/null
printf '%s\n' "subjectAltName=$names" "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
  "extendedKeyUsage=serverAuth" > "$out/tls.ext"
openssl x509 -req -in "$out/tls.csr" -CA "$out/ca.crt" -CAkey "$out/ca.key" -CAcreateserial -days "$leaf_days" \
  -extfile "$out/tls.ext" -out "$out/tls.crt" 2> /dev/null
rm -f "$out/tls.csr" "$out/tls.ext" "$out/ca.srl"
openssl verify -CAfile "$out/ca.crt" "$out/tls.crt" > /dev/null
cat <<W
created a serving certificate, valid for $leaf_days days, for $names: $out/tls.crt
use it with:
  prewarmer serve --tls-cert-file=$out/tls.crt --tls-key-file=$out/tls.key --tls-ca-file=$out/ca.crt
Run this script again before the certificate expires; the server reloads the files within 30 seconds. Do not copy $out/ca.key to the cluster.
W
