// Command schedule creates a nightly schedule, triggers it once, prints its executions, and deletes
// it: schedule TYPE IMAGE...
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	prewarmer "github.com/prewarmer/prewarmer/sdk/go"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: schedule TYPE IMAGE...")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, kind string, images []string) error {
	client, err := prewarmer.FromEnv()
	if err != nil {
		return err
	}
	schedule, err := client.CreateSchedule(ctx, prewarmer.ScheduleRequest{
		Name:          "nightly",
		CronExpr:      "30 2 * * MON-FRI",
		Timezone:      "Europe/Berlin",
		OverlapPolicy: prewarmer.OverlapSkip,
		TaskConfig:    prewarmer.TaskRequest{Images: images, NodeSelector: map[string]string{"type": kind}},
	})
	if err != nil {
		return err
	}
	here := prewarmer.InNamespace(schedule.Namespace)
	fmt.Printf("%s runs next at %v\n", schedule.ID, schedule.NextExecutionAt)
	if err := runOnce(ctx, client, schedule.ID, here); err != nil {
		return err
	}
	done, err := client.DeleteSchedule(ctx, schedule.ID, here)
	if err != nil {
		return err
	}
	fmt.Println(done.Message)
	return nil
}

func runOnce(ctx context.Context, client *prewarmer.Client, id string, here prewarmer.CallOption) error {
	run, err := client.TriggerSchedule(ctx, id, here)
	if err != nil {
		return err
	}
	if _, err := client.Wait(ctx, run.TaskID, here, prewarmer.FailUnlessCompleted()); err != nil {
		return err
	}
	// The status of the execution is updated shortly after its task: it may still be running.
	for run, err := range client.Executions(ctx, id, here) {
		if err != nil {
			return err
		}
		fmt.Printf("run %d, %s: %s\n", run.ID, run.Trigger, run.Status)
	}
	return nil
}
