// Command quickstart warms images on the nodes with the label type=TYPE: quickstart TYPE IMAGE...
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	prewarmer "github.com/prewarmer/prewarmer/sdk/go"
)

func main() {
	ctx := context.Background()
	client, err := prewarmer.FromEnv() // PREWARMER_URL, PREWARMER_TOKEN
	check(err)
	task, err := client.CreateTask(ctx, prewarmer.TaskRequest{Images: os.Args[2:], NodeSelector: map[string]string{"type": os.Args[1]}})
	check(err)
	done, err := client.Wait(ctx, task.TaskID, prewarmer.FailUnlessCompleted())
	check(err)
	fmt.Println(done.TaskID, done.Message)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
