package prewarmer

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"
)

// methods maps each operation of the OpenAPI document to its method.
var methods = map[string]string{
	"create_task":      "CreateTask",
	"get_task":         "GetTask",
	"list_tasks":       "ListTasks",
	"cancel_task":      "CancelTask",
	"retry_task":       "RetryTask",
	"watch_task":       "WatchTask",
	"extract":          "Extract",
	"create_schedule":  "CreateSchedule",
	"list_schedules":   "ListSchedules",
	"get_schedule":     "GetSchedule",
	"replace_schedule": "ReplaceSchedule",
	"delete_schedule":  "DeleteSchedule",
	"enable_schedule":  "EnableSchedule",
	"disable_schedule": "DisableSchedule",
	"trigger_schedule": "TriggerSchedule",
	"list_executions":  "ListExecutions",
	"get_execution":    "GetExecution",
	"list_nodes":       "ListNodes",
	"get_stats":        "GetStats",
}

func TestEveryOperationHasItsMethod(t *testing.T) {
	operations := operationsOf(t)
	client := reflect.TypeFor[*Client]()
	for _, id := range operations {
		if _, found := client.MethodByName(methods[id]); !found {
			t.Errorf("%s has no method", id)
		}
	}
	if len(operations) != len(methods) {
		t.Errorf("the document has %d operations, the table %d", len(operations), len(methods))
	}
}

func operationsOf(t *testing.T) (ids []string) {
	path := os.Getenv("PREWARMER_OPENAPI")
	if path == "" {
		path = "../../deploy/openapi.json"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	for _, methods := range document.Paths {
		for _, operation := range methods {
			ids = append(ids, operation.OperationID)
		}
	}
	return ids
}
