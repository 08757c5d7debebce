// Command wait warms images and prints the progress. It cancels the task on interrupt or timeout:
// wait [-timeout 5m] [-batch 25] TYPE IMAGE...
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	prewarmer "github.com/prewarmer/prewarmer/sdk/go"
)

func main() {
	timeout := flag.Duration("timeout", 5*time.Minute, "maximum time to wait")
	batch := flag.Int("batch", 25, "batch size in percent of the nodes")
	flag.Parse()
	if flag.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "usage: wait [-timeout 5m] [-batch 25] TYPE IMAGE...")
		os.Exit(2)
	}
	if err := run(*timeout, *batch, flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(timeout time.Duration, batch int, kind string, images []string) error {
	client, err := prewarmer.FromEnv()
	if err != nil {
		return err
	}
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(interrupted, timeout)
	defer cancel()
	task, err := client.CreateTask(ctx, prewarmer.TaskRequest{
		Images:       images,
		NodeSelector: map[string]string{"type": kind},
		BatchSize:    prewarmer.Percent(batch),
		MaxRetries:   prewarmer.Ptr(2),
	})
	if err != nil {
		return err
	}
	_, err = client.Wait(ctx, task.TaskID,
		prewarmer.InNamespace(task.Namespace),
		prewarmer.WithProgress(prewarmer.ProgressWriter(os.Stderr)),
		prewarmer.FailUnlessCompleted())
	if ctx.Err() == nil {
		return err
	}
	// The context has ended; the cleanup needs a separate one.
	cleanup, cancelCleanup := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancelCleanup()
	_, cancelled := client.CancelTask(cleanup, task.TaskID, prewarmer.InNamespace(task.Namespace))
	return errors.Join(err, cancelled)
}
