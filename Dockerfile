# Two images, each with one static program: `docker build --target server .` and `docker build
# --target helper .` deploy/images.sh builds the same images without a container engine.

# The base image is pinned by digest, because tags are mutable. `docker buildx imagetools inspect
# rust:VERSION-bookworm` prints the digest of another version. --build-arg RUST_IMAGE=... uses
# another image.
ARG RUST_IMAGE=rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1
FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY crates crates
COPY src src
COPY deploy deploy
COPY benches benches
COPY tests/effect tests/effect
COPY tests/fleet tests/fleet
COPY tests/support tests/support
# The C library is linked statically: since glibc 2.34 name resolution works without further files.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && cargo build --release --locked --target "$target" --bin prewarmer && cp "target/$target/release/prewarmer" /prewarmer \
 && rustc --edition 2024 -C opt-level=z -C lto=fat -C codegen-units=1 -C target-feature=+crt-static -C panic=abort \
      -C strip=symbols \
      -o /prewarmer-helper crates/helper/src/main.rs

# A static program of about 1 MB that runs in worker pods.
FROM scratch AS helper
COPY --from=build /prewarmer-helper /prewarmer-helper
USER 65532:65532
ENTRYPOINT ["/prewarmer-helper"]

FROM scratch AS server
COPY --from=build /prewarmer /prewarmer
# Certificate authorities for connections to notification receivers and registries.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080 8443 9090
ENTRYPOINT ["/prewarmer"]
