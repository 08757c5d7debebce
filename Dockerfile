# Two images: `docker build --target server .` and `docker build --target helper .`

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY benches benches
RUN cargo build --release --locked --bin prewarmer \
 && rustc --edition 2024 -O -C target-feature=+crt-static -C panic=abort -C strip=symbols \
      -o /prewarmer-helper src/bin/helper.rs

# One static program of about a megabyte: it runs in pods that pull images.
FROM scratch AS helper
COPY --from=build /prewarmer-helper /prewarmer-helper
USER 65532:65532
ENTRYPOINT ["/prewarmer-helper"]

# The server needs glibc for name look-ups (its resolver is never static), so it does not start from scratch.
FROM debian:12-slim AS server
COPY --from=build /src/target/release/prewarmer /prewarmer
# Whom notifications are told to, and registries, are known by these.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080 8443 9090
ENTRYPOINT ["/prewarmer"]
