# Two images, static and with nothing else in them: `docker build --target server .` and `docker build --target helper .`
# Without a container engine: deploy/images.sh, which makes the same two.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY deploy deploy
COPY benches benches
# The C library is linked in too: since glibc 2.34 names are looked up without any file beside it.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && cargo build --release --locked --target "$target" --bin prewarmer && cp "target/$target/release/prewarmer" /prewarmer \
 && rustc --edition 2024 -O -C target-feature=+crt-static -C panic=abort -C strip=symbols \
      -o /prewarmer-helper src/bin/helper.rs

# One static program of about a megabyte: it runs in pods that pull images.
FROM scratch AS helper
COPY --from=build /prewarmer-helper /prewarmer-helper
USER 65532:65532
ENTRYPOINT ["/prewarmer-helper"]

FROM scratch AS server
COPY --from=build /prewarmer /prewarmer
# Whom notifications are told to, and registries, are known by these.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080 8443 9090
ENTRYPOINT ["/prewarmer"]
