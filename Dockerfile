# Two images, static and with nothing else in them: `docker build --target server .` and `docker build --target helper .`
# Without a container engine: deploy/images.sh, which makes the same two.

# By digest, so that what is built with does not change behind the tag. For another version: `docker buildx imagetools inspect
# rust:VERSION-bookworm` prints the digest; a build with another image: --build-arg RUST_IMAGE=...
ARG RUST_IMAGE=rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1
FROM ${RUST_IMAGE} AS build
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
