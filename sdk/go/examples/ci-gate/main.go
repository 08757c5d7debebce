// Command ci-gate warms the images of a manifest before a pipeline rolls it out, and fails when that fails:
//
//	kustomize build overlays/production | ci-gate -node-type web -timeout 10m
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	prewarmer "github.com/prewarmer/prewarmer/sdk/go"
)

func main() {
	kind := flag.String("node-type", "", "the nodes with the label type=...; by default all")
	timeout := flag.Duration("timeout", 10*time.Minute, "how long the gate may take")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	err := gate(ctx, *kind, timeout.String())
	var failed *prewarmer.TaskFailedError
	switch {
	case errors.As(err, &failed):
		fmt.Fprintln(os.Stderr, "the images cannot be pulled everywhere:", failed)
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "the gate could not tell:", err)
		os.Exit(2)
	}
}

func gate(ctx context.Context, kind, deadline string) error {
	client, err := prewarmer.FromEnv()
	if err != nil {
		return err
	}
	images, err := imagesOf(ctx, client)
	if err != nil {
		return err
	}
	if len(images) == 0 {
		fmt.Println("the manifest has no images to warm")
		return nil
	}
	request := prewarmer.TaskRequest{Images: images, BatchPolicy: prewarmer.BatchPolicyRolling, Deadline: deadline}
	if kind != "" {
		request.NodeSelector = map[string]string{"type": kind}
	}
	task, err := client.CreateTask(ctx, request)
	if err != nil {
		return err
	}
	done, err := client.Wait(ctx, task.TaskID,
		prewarmer.InNamespace(task.Namespace),
		prewarmer.WithProgress(prewarmer.ProgressWriter(os.Stdout)),
		prewarmer.FailUnlessCompleted())
	if err != nil {
		return err
	}
	fmt.Println("ready for the rollout:", done.Message)
	return nil
}

// imagesOf asks the server what a manifest's workloads need, so that a pipeline does not have to know every kind.
func imagesOf(ctx context.Context, client *prewarmer.Client) ([]string, error) {
	found, err := client.Extract(ctx, os.Stdin)
	if err != nil {
		return nil, err
	}
	var images []string
	for _, workload := range found.Workloads {
		images = append(images, workload.Images...)
	}
	slices.Sort(images)
	return slices.Compact(images), nil
}
